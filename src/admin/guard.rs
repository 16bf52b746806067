//! Who gets through to a route: whoever may, with a body only where one is read.

use std::sync::Arc;

use axum::body::HttpBody;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::admin::access::Access;
use crate::admin::listener::Peer;
use crate::admin::problem::Problem;
use crate::admin::routes::{App, Purpose};

/// A body beyond this is no trainer.
pub(super) const BODY_BYTES_MAX: usize = 64 << 10;

/// What is said of a body that nobody reads.
pub(super) fn too_large() -> Problem {
    let detail = format!("no route takes a body of more than {BODY_BYTES_MAX} bytes, and most take none");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail).header(header::CONNECTION, "close")
}

/// Refuse whoever may not, and bodies that nobody reads, before a byte of them is read.
pub(super) async fn admit(
    State((app, purpose, takes_body)): State<(Arc<App>, Purpose, bool)>,
    request: Request,
    next: Next,
) -> Response {
    let most = if takes_body { BODY_BYTES_MAX as u64 } else { 0 };
    let announced = request.body().size_hint();
    if announced.lower() > most || (!takes_body && announced.upper() != Some(0)) {
        return too_large().into_response();
    }
    let locked = match purpose {
        Purpose::Probe => false,
        Purpose::Read => app.access.protect_reads,
        Purpose::Change => true,
    };
    if purpose == Purpose::Change && is_of_another_site(&request) {
        let detail = "a page of another site asked for this: changes are made from the dashboard, or by programs";
        return Problem::new(StatusCode::FORBIDDEN, detail).into_response();
    }
    match if locked { check(&app.access, &request) } else { Ok(()) } {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

/// Whether a browser says that a page of another site made the request. It shows the certificate of its user to whatever
/// asks for it.
fn is_of_another_site(request: &Request) -> bool {
    let site = request.headers().get("sec-fetch-site").and_then(|value| value.to_str().ok());
    site.is_some_and(|site| site == "cross-site" || site == "same-site")
}

fn check(access: &Access, request: &Request) -> Result<(), Problem> {
    if !access.has_keys() {
        let detail = "nothing can be changed over HTTP: start `harvestd serve` with --token-file or --tls-client-ca";
        return Err(Problem::new(StatusCode::FORBIDDEN, detail));
    }
    if request.extensions().get::<ConnectInfo<Peer>>().is_some_and(|info| info.0.is_certified()) {
        return Ok(());
    }
    let shown = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let shown = shown.and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    match (&access.token, shown) {
        (Some(token), Some(shown)) if token.is(shown) => Ok(()),
        (Some(_), _) => Err(Problem::new(StatusCode::UNAUTHORIZED, "show the token: Authorization: Bearer ...")
            .header(header::WWW_AUTHENTICATE, "Bearer")),
        (None, _) => Err(Problem::new(StatusCode::UNAUTHORIZED, "show a certificate of the authority for clients")
            .header(header::WWW_AUTHENTICATE, "Mutual")),
    }
}
