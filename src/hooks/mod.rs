//! What can be captured, and how it is named.
//!
//! Names are TransformerLens hook names; an architecture's Hugging Face module paths are accepted as aliases. Values equal
//! Hugging Face's (no weight folding, no centring). A model declares which points it has; a selection is resolved against that list.

pub mod heads;
pub mod listing;
pub mod name;
pub mod point;
pub mod reference;
pub mod selection;
pub mod site;
mod stored;
pub mod tap;

pub use name::ModulePaths;
pub use point::{HookPoint, PointShape, SiteWidth};
pub use selection::{SelectionProblem, resolve};
pub use site::Site;
pub use tap::{Taps, Want};
