//! What an operator asks over HTTP: metrics, liveness, readiness, status; and, of a process that runs many pipelines, what is
//! done to them.
//!
//! | route | answers |
//! |---|---|
//! | `GET /` | the dashboard: one page, which shows the rest |
//! | `GET /metrics` | numbers of all pipelines in the Prometheus text format |
//! | `GET /livez` | 200 while every pipeline makes progress, else 503; JSON says which stage stands still |
//! | `GET /readyz` | 200 when every pipeline is ready, else 503; JSON says what it waits for |
//! | `GET /v1/status` | where each pipeline stands |
//! | `GET /v1/overview` | all that the dashboard shows of all pipelines |
//! | `GET /v1/pipelines/{name}/trainers/{trainer}/features` | latents of a coder while it trains; `.../curves`: its training |
//! | `GET /v1/openapi.json` | these routes, and those of `/v1/pipelines`, as OpenAPI 3.1 |
//!
//! The server reads a [`Board`], on which pipelines are put by whoever starts them, and asks a [`Control`], if there is one, to
//! change things. It answers strangers on the loopback interface, and changes nothing for those who cannot show who they
//! are ([`Access`]). Bodies, connections, their silence and the time of a request are bounded. Errors are problem
//! documents (RFC 9457).

mod access;
mod board;
mod control;
mod guard;
mod listener;
mod looking;
mod openapi;
mod otlp;
mod overview;
mod problem;
mod routes;
mod samples;
mod server;

pub use access::{Access, Tls, Token};
pub use board::{Board, Check, Standing, StatusSource, Verdict, Watched};
pub use control::{Action, Control, Desired, PipelineState, PipelineView, Refusal, Reloaded, Why};
pub use otlp::{Otlp, Sending};
pub use server::{AdminServer, Bound, CONNECTIONS, Service};
