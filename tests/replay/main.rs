//! Stored datasets as a source: pipelines that replay, shuffles, imports and exports, through the real binary.
//!
//! `HARVESTD_PYTHON` names a Python with pyarrow, safetensors, numpy, torch and sae-lens; what needs it is skipped loudly
//! without, unless `CI` is set. `HARVESTD_LONG_TESTS=1` kills more often.

#[path = "../support/mod.rs"]
mod support;

mod exchange;
mod pipelines;
mod shuffle;
