//! What is minimised: reconstructions, penalties on the code, and the auxiliary branch. One file each.

pub mod anneal;
pub mod aux;
pub mod branch;
pub mod ghost;
pub mod penalty;
pub mod quadratic;
pub mod reconstruction;

pub use aux::Aux;
pub use branch::Branch;
pub use ghost::Ghost;
pub use penalty::Penalties;
pub use quadratic::Quadratic;
pub use reconstruction::Reconstruction;
