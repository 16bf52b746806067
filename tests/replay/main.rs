//! Stored datasets as a source: pipelines that replay, through the real binary.
//!
//! `HARVESTD_PYTHON` names a Python with pyarrow, safetensors, numpy, torch and sae-lens; what needs it is skipped loudly
//! without, unless `CI` is set.

#[path = "../support/mod.rs"]
mod support;

mod pipelines;
