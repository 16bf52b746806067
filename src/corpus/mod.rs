//! Text in: listings, work units, and readers that turn bytes into documents.
//!
//! The listing of a corpus is split into *units* (a file, a group of small files, or a part of a large file cut at
//! document borders). A unit is the atom of work, resume and distribution: its documents are the same whoever reads it,
//! in the same order. What cannot be read is counted with a reason and skipped; it never stops a run.

pub mod config;
pub mod cursor;
