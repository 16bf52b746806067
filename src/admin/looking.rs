//! Routes that look at coders while they train, and the page that shows all of it.

use std::sync::Arc;
use std::sync::LazyLock;

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::admin::openapi::Schema;
use crate::admin::overview::{Changes, Overview};
use crate::admin::problem::Problem;
use crate::admin::routes::{App, JSON, Names, Operation, Purpose, operation, read};
use crate::pipeline::lens::{Curves, FeatureList, FeatureQuery, FeatureView, FeaturesRefused, Lenses, SortBy};

/// Latents in one answer, at most.
const LIMIT_MAX: usize = 500;
const LIMIT: usize = 50;

const HTML: &str = include_str!("dashboard/index.html");
const STYLE: &str = include_str!("dashboard/style.css");
/// Joined in this order inside one function.
const SCRIPTS: [&str; 5] = [
    include_str!("dashboard/base.js"),
    include_str!("dashboard/charts.js"),
    include_str!("dashboard/pipeline.js"),
    include_str!("dashboard/features.js"),
    include_str!("dashboard/main.js"),
];

/// The page, and what may run in it.
static PAGE: LazyLock<(String, String)> = LazyLock::new(|| {
    let script = format!("'use strict';\n(() => {{\n{}\n}})();", SCRIPTS.join("\n"));
    let digest = |text: &str| base64::engine::general_purpose::STANDARD.encode(Sha256::digest(text));
    let policy = format!(
        "default-src 'none'; connect-src 'self'; img-src data:; script-src 'sha256-{}'; style-src 'sha256-{}'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        digest(&script),
        digest(STYLE)
    );
    (HTML.replace("/*STYLE*/", STYLE).replace("/*SCRIPT*/", &script), policy)
});

/// The routes.
pub(super) fn operations() -> Vec<Operation> {
    let features =
        async |State(app): State<Arc<App>>, Names((name, trainer)): Names<(String, String)>, RawQuery(q): RawQuery| {
            let query = query(q.as_deref().unwrap_or_default())?;
            looked(&app, &name, move |lenses| lenses.list(&trainer, &query)).await
        };
    let feature = async |State(app): State<Arc<App>>,
                         Names((name, trainer, latent)): Names<(String, String, String)>| {
        let latent = latent.parse().map_err(|_| refused(FeaturesRefused::NoLatent))?;
        looked(&app, &name, move |lenses| lenses.feature(&trainer, latent)).await
    };
    let curves = async |State(app): State<Arc<App>>, Names((name, trainer)): Names<(String, String)>| {
        looked(&app, &name, move |lenses| lenses.curves(&trainer).ok_or(FeaturesRefused::NoTrainer)).await
    };
    let mut list = read(
        "/v1/pipelines/{name}/trainers/{trainer}/features",
        "listFeatures",
        "Latents of a coder while it trains: how often and where they fire",
        get(features),
    )
    .answers(200, "Latents", JSON, Schema::of::<FeatureList>())
    .problems(&[404, 422]);
    list.query = described_query();
    vec![
        operation(("get", Purpose::Probe), "/", "dashboard", "The page that shows all of this", get(page)).answers(
            200,
            "A page",
            "text/html",
            Schema::text(),
        ),
        read("/v1/overview", "overview", "What the page at / shows of all pipelines", get(overview)).answers(
            200,
            "The process and its pipelines",
            JSON,
            Schema::of::<Overview>(),
        ),
        read(
            "/v1/pipelines/{name}/trainers/{trainer}/curves",
            "trainerCurves",
            "Loss, FVU, L0 and dead latents from the first step on, in at most 256 points",
            get(curves),
        )
        .answers(200, "The curves", JSON, Schema::of::<Curves>())
        .problems(&[404]),
        list,
        read(
            "/v1/pipelines/{name}/trainers/{trainer}/features/{latent}",
            "getFeature",
            "One latent; what it promotes is computed from the first request on",
            get(feature),
        )
        .answers(200, "The latent", JSON, Schema::of::<FeatureView>())
        .problems(&[404]),
    ]
}

async fn page() -> Response {
    let (html, policy) = &*PAGE;
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, policy.as_str()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ];
    (headers, html.as_str()).into_response()
}

async fn overview(State(app): State<Arc<App>>) -> Result<Json<Value>, Problem> {
    blocking(move || {
        let changes = match (&app.control, &app.access.token) {
            (None, _) => Changes::Never,
            _ if !app.access.has_keys() => Changes::Never,
            (Some(_), Some(_)) => Changes::WithToken,
            (Some(_), None) => Changes::WithCertificate,
        };
        let overview = Overview::of(&app.board, app.control.as_ref(), changes);
        Ok(Json(serde_json::to_value(overview).unwrap_or_default()))
    })
    .await
}

/// Do what blocks where it may.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Problem> + Send + 'static) -> Result<T, Problem> {
    let died = |_| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "this is a bug in harvestd: the log has a message");
    tokio::task::spawn_blocking(work).await.map_err(died)?
}

/// What `look` sees of the pipeline `name`.
async fn looked<T: serde::Serialize + Send + 'static>(
    app: &Arc<App>,
    name: &str,
    look: impl FnOnce(&Lenses) -> Result<T, FeaturesRefused> + Send + 'static,
) -> Result<Json<T>, Problem> {
    let unknown = || Problem::new(StatusCode::NOT_FOUND, format!("there is no pipeline `{name}`"));
    let lenses = app.board.lenses(name).ok_or_else(unknown)?;
    blocking(move || look(&lenses).map(Json).map_err(refused)).await
}

fn refused(why: FeaturesRefused) -> Problem {
    let detail = match why {
        FeaturesRefused::NoTrainer => "the pipeline has no such trainer, or it was not started since the process began",
        FeaturesRefused::NoLatent => "the coder has no such latent",
    };
    Problem::new(StatusCode::NOT_FOUND, detail)
}

fn described_query() -> Vec<Value> {
    let parameter = |name: &str, description: &str, schema: Value| json!({"name": name, "in": "query", "description": description, "schema": schema});
    vec![
        parameter("sort", "What they are sorted by", json!({"type": "string", "enum": ["density", "max", "latent"]})),
        parameter("order", "Which come first", json!({"type": "string", "enum": ["desc", "asc"]})),
        parameter(
            "token",
            "Only those that fire most, somewhere, on a token that holds this, or are known to promote one",
            json!({"type": "string"}),
        ),
        parameter("silent", "Those too that never fired", json!({"type": "boolean"})),
        parameter(
            "offset",
            "Latents that are left out before the first",
            json!({"type": "integer", "minimum": 0, "maximum": u32::MAX}),
        ),
        parameter("limit", "Latents that are listed", json!({"type": "integer", "minimum": 1, "maximum": LIMIT_MAX})),
    ]
}

/// The query of a list of features.
fn query(text: &str) -> Result<FeatureQuery, Problem> {
    let mut query = FeatureQuery { limit: LIMIT, ..FeatureQuery::default() };
    for (key, value) in url::form_urlencoded::parse(text.as_bytes()) {
        let wrong = |rule: &str| {
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, format!("`{key}` in the query: `{value}` is not {rule}"))
        };
        match &*key {
            "sort" => {
                query.sort = match &*value {
                    "density" => SortBy::Density,
                    "max" => SortBy::Max,
                    "latent" => SortBy::Latent,
                    _ => return Err(wrong("density, max or latent")),
                }
            }
            "order" => {
                query.ascending = match &*value {
                    "asc" => true,
                    "desc" => false,
                    _ => return Err(wrong("asc or desc")),
                }
            }
            "token" => query.token = Some(value.into_owned()),
            "silent" => query.silent = value.parse().map_err(|_| wrong("true or false"))?,
            "offset" => query.offset = value.parse::<u32>().map_err(|_| wrong("a whole number"))? as usize,
            "limit" => {
                let limit = value.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
                query.limit = limit.ok_or_else(|| wrong(&format!("a number from 1 to {LIMIT_MAX}")))?;
            }
            _ => return Err(wrong("known: there are sort, order, token, silent, offset and limit")),
        }
    }
    Ok(query)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_read_whole_or_refused() {
        let found = query("sort=max&order=asc&token=%20the&silent=true&offset=3&limit=500").ok().unwrap();
        let token = Some(" the".to_owned());
        let expected = FeatureQuery { sort: SortBy::Max, ascending: true, token, silent: true, offset: 3, limit: 500 };
        assert_eq!(found, expected);
        assert_eq!(query("").ok().unwrap().limit, LIMIT);
        for wrong in ["sort=size", "order=up", "silent=yes", "offset=-1", "limit=0", "limit=501", "limit=x", "page=1"] {
            assert!(query(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_page_asks_nobody_else() {
        let (html, policy) = &*PAGE;
        assert!(html.contains("<style>") && html.contains("'use strict'") && !html.contains("/*SCRIPT*/"));
        let foreign = html.match_indices("://").map(|(at, _)| &html[at.saturating_sub(5)..(at + 30).min(html.len())]);
        // the name of SVG's elements is all that looks like an address
        let foreign: Vec<&str> = foreign.filter(|text| !text.contains("www.w3.org/2000/svg")).collect();
        assert!(foreign.is_empty(), "{foreign:?}");
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    }
}
