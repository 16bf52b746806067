//! What an operator asks over HTTP: metrics, liveness, readiness, status.
//!
//! | route | answers |
//! |---|---|
//! | `GET /metrics` | numbers of all pipelines in the Prometheus text format |
//! | `GET /livez` | 200 while every pipeline makes progress, else 503; JSON says which stage stands still |
//! | `GET /readyz` | 200 when every pipeline is ready, else 503; JSON says what it waits for |
//! | `GET /v1/status` | where each pipeline stands |
//!
//! The server reads a [`Board`], on which pipelines are put by whoever starts them, and knows nothing else of them. It
//! is meant for the loopback interface or a private network: it has no authentication, reads no request bodies, changes
//! nothing, and bounds the number of connections and their silence. Errors are problem documents (RFC 9457).

mod board;
mod listener;
mod routes;
mod server;

pub use board::{Board, Check, StatusSource, Verdict, Watched};
pub use server::AdminServer;
