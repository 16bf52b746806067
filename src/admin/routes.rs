//! The routes, and how answers look.

use std::sync::Arc;

use axum::body::HttpBody;
use axum::extract::{Request, State};
use axum::http::{HeaderName, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

use crate::admin::board::{Board, Verdict};

/// All routes over `board`.
pub(super) fn router(board: Arc<Board>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(async |State(board): State<Arc<Board>>| verdict(&board.liveness())))
        .route("/readyz", get(async |State(board): State<Arc<Board>>| verdict(&board.readiness())))
        .route("/v1/status", get(async |State(board): State<Arc<Board>>| Json(board.status())))
        .fallback(async || problem(StatusCode::NOT_FOUND, "there is no such route", Some(ROUTES)))
        .method_not_allowed_fallback(async || {
            problem(StatusCode::METHOD_NOT_ALLOWED, "this route can only be read (GET)", None)
        })
        .layer(middleware::from_fn(refuse_bodies))
        .with_state(board)
}

const ROUTES: &[&str] = &["/metrics", "/livez", "/readyz", "/v1/status"];

async fn metrics(State(board): State<Arc<Board>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], board.metrics())
}

fn verdict(verdict: &Verdict) -> Response {
    let code = if verdict.ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(verdict)).into_response()
}

/// Nothing here takes a body, so a request that brings one is refused before a byte of it is read.
async fn refuse_bodies(request: Request, next: Next) -> Response {
    if request.body().size_hint().upper() == Some(0) {
        return next.run(request).await;
    }
    let mut refusal = problem(StatusCode::PAYLOAD_TOO_LARGE, "no route takes a request body", None);
    refusal.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
    refusal
}

/// A problem document (RFC 9457).
fn problem(code: StatusCode, detail: &str, routes: Option<&[&str]>) -> Response {
    let title = code.canonical_reason().unwrap_or("error");
    let mut body = json!({"type": "about:blank", "title": title, "status": code.as_u16(), "detail": detail});
    if let Some(routes) = routes {
        body["routes"] = Value::from(routes.to_vec());
    }
    let content_type: (HeaderName, &str) = (header::CONTENT_TYPE, "application/problem+json");
    (code, [content_type], body.to_string()).into_response()
}
