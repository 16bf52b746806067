//! Pieces that architectures share.
//!
//! Each piece owns its weights and computes into the [`workspace::Workspace`]; [`pass::Pass`] carries what all pieces of
//! one forward pass need, and ends the pass after the last wanted point.

pub(super) mod attention;
pub(super) mod block;
pub(super) mod contexts;
pub(super) mod experts;
pub(super) mod head;
pub(super) mod linear;
pub(super) mod loader;
pub(super) mod mlp;
pub(super) mod norm;
pub(super) mod pass;
pub(super) mod rope;
pub(super) mod workspace;
