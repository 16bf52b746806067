//! The routes. Each is an [`Operation`] of one list, from which both the router and the description at `/v1/openapi.json` are made.

use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::body::HttpBody;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, MatchedPath, Path, Request, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::admin::access::Access;
use crate::admin::board::{Board, Verdict};
use crate::admin::control::{Action, Control, PipelineList, PipelineView, Refusal, Reloaded};
use crate::admin::guard::{BODY_BYTES_MAX, admit, too_large};
use crate::admin::looking;
use crate::admin::openapi::{self, Schema};
use crate::admin::problem::Problem;

/// What the routes answer from.
pub(super) struct App {
    pub(super) board: Arc<Board>,
    /// In a process that runs many pipelines.
    pub(super) control: Option<Arc<dyn Control>>,
    pub(super) access: Access,
}

/// What a route is for, which decides who may use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Looked at by whoever keeps the process alive: open.
    Probe,
    /// Shows something.
    Read,
    /// Changes something.
    Change,
}

/// One route and method.
pub(super) struct Operation {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    pub(super) id: &'static str,
    pub(super) summary: &'static str,
    pub(super) purpose: Purpose,
    /// Parameters of the query.
    pub(super) query: Vec<Value>,
    /// What is sent: a media type is `application/json`.
    pub(super) body: Option<Value>,
    /// Status code, what it means, media type, and schema.
    pub(super) answers: Vec<(u16, &'static str, &'static str, Schema)>,
    /// Codes of problem documents besides those that every route of its purpose has.
    pub(super) problems: &'static [u16],
    handler: MethodRouter<Arc<App>>,
}

pub(super) const JSON: &str = "application/json";
const TEXT: &str = "text/plain";

/// All routes over `app`.
pub(super) fn router(app: App) -> Router {
    let app = Arc::new(app);
    let operations = operations(&app);
    let description = Arc::new(openapi::describe(&operations));
    let mut paths: Vec<String> = operations.iter().map(|operation| operation.path.to_owned()).collect();
    paths.push("/v1/openapi.json".to_owned());
    paths.dedup();
    let mut router = Router::new();
    for operation in operations {
        let guarded = operation.handler.layer(middleware::from_fn_with_state(
            (Arc::clone(&app), operation.purpose, operation.body.is_some()),
            admit,
        ));
        router = router.route(operation.path, guarded);
    }
    let shown = get(async move || Json(Value::clone(&description)));
    let guarded = shown.layer(middleware::from_fn_with_state((Arc::clone(&app), Purpose::Probe, false), admit));
    router
        .route("/v1/openapi.json", guarded)
        .method_not_allowed_fallback(async |request: Request| match request.body().size_hint().lower() {
            size if size > BODY_BYTES_MAX as u64 => too_large(),
            _ => Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this route has other methods: see the Allow header"),
        })
        .fallback(async move || Problem::new(StatusCode::NOT_FOUND, "there is no such route").routes(paths.clone()))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), count))
        .with_state(app)
}

/// Every route but the description of them.
pub(super) fn operations(app: &App) -> Vec<Operation> {
    let mut all =
        vec![
            read("/metrics", "metrics", "Numbers of all pipelines, in the Prometheus text format", get(metrics))
                .answers(200, "Prometheus text format 0.0.4", TEXT, Schema::text()),
            probe(
                "/livez",
                "livez",
                "Whether every pipeline makes progress",
                get(async |State(app): State<Arc<App>>| verdict(&app.board.liveness())),
            ),
            probe(
                "/readyz",
                "readyz",
                "Whether every pipeline can work",
                get(async |State(app): State<Arc<App>>| verdict(&app.board.readiness())),
            ),
            read(
                "/v1/status",
                "status",
                "Where each pipeline stands",
                get(async |State(app): State<Arc<App>>| Json(app.board.status())),
            )
            .answers(200, "Version, uptime, and one entry a pipeline", JSON, Schema::any_object()),
        ];
    all.extend(looking::operations());
    if app.control.is_some() {
        all.extend(reading_pipelines());
        all.extend(changing_pipelines());
    }
    all
}

fn reading_pipelines() -> Vec<Operation> {
    vec![
        read(
            "/v1/pipelines",
            "listPipelines",
            "All pipelines",
            get(async |State(app): State<Arc<App>>| {
                ask(&app, |control| Ok(PipelineList { pipelines: control.pipelines() })).await
            }),
        )
        .answers(200, "All pipelines, by name", JSON, Schema::of::<PipelineList>()),
        read(
            "/v1/pipelines/{name}",
            "getPipeline",
            "One pipeline",
            get(async |State(app): State<Arc<App>>, Names(name): Names<String>| {
                ask(&app, move |control| control.pipeline(&name)).await
            }),
        )
        .answers(200, "The pipeline", JSON, Schema::of::<PipelineView>())
        .problems(&[404]),
    ]
}

fn changing_pipelines() -> Vec<Operation> {
    let mut all = vec![
        act(
            "/v1/pipelines/{name}/pause",
            "pausePipeline",
            Action::Pause,
            "Finish what is in flight, write checkpoints, and wait; kept over restarts",
        ),
        act(
            "/v1/pipelines/{name}/resume",
            "resumePipeline",
            Action::Resume,
            "Work again after a pause, a drain, a stop or a failure",
        ),
        act(
            "/v1/pipelines/{name}/drain",
            "drainPipeline",
            Action::Drain,
            "As a pause, but forgotten when the process ends",
        ),
        act(
            "/v1/pipelines/{name}/stop",
            "stopPipeline",
            Action::Stop,
            "Stop at once; what was not committed is computed again; kept over restarts",
        ),
        act(
            "/v1/pipelines/{name}/checkpoint",
            "checkpointPipeline",
            Action::Checkpoint,
            "Write a checkpoint of every trainer at its next batch",
        ),
    ];
    let added = async |State(app): State<Arc<App>>, Names(name): Names<String>, request: Request| {
        let trainer: Value = body(request).await?;
        accepted(ask(&app, move |control| control.add_trainer(&name, trainer)).await)
    };
    all.push(
        change("/v1/pipelines/{name}/trainers", "addTrainer",
            "Add a trainer, written as in a pipeline file; the pipeline drains and goes on with it", post(added))
        .body(serde_json::json!({
            "type": "object", "required": ["name"], "additionalProperties": true,
            "properties": {"name": {"type": "string", "minLength": 1}},
            "description": "A trainer as in a pipeline file: `harvestd schema` describes it. No variables are expanded.",
        }))
        .problems(&[400, 404, 409, 413, 415, 422, 503]),
    );
    let stopped = async |State(app): State<Arc<App>>, Names((name, trainer)): Names<(String, String)>| {
        accepted(ask(&app, move |control| control.set_trainer(&name, &trainer, false)).await)
    };
    let resumed = async |State(app): State<Arc<App>>, Names((name, trainer)): Names<(String, String)>| {
        accepted(ask(&app, move |control| control.set_trainer(&name, &trainer, true)).await)
    };
    all.push(
        change(
            "/v1/pipelines/{name}/trainers/{trainer}/stop",
            "stopTrainer",
            "Save a trainer and go on without it; its checkpoints stay",
            post(stopped),
        )
        .problems(&[404, 409, 422, 503]),
    );
    all.push(
        change(
            "/v1/pipelines/{name}/trainers/{trainer}/resume",
            "resumeTrainer",
            "Let a stopped trainer go on from its checkpoint",
            post(resumed),
        )
        .problems(&[404, 409, 422, 503]),
    );
    let reload = async |State(app): State<Arc<App>>| ask(&app, |control| control.reload()).await;
    let mut reload = change(
        "/v1/reload",
        "reload",
        "Read the pipeline files again; nothing changes unless all are valid",
        post(reload),
    )
    .problems(&[422, 503]);
    reload.answers = vec![(200, "What changed", JSON, Schema::of::<Reloaded>())];
    all.push(reload);
    all
}

pub(super) fn operation(
    (method, purpose): (&'static str, Purpose),
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    handler: MethodRouter<Arc<App>>,
) -> Operation {
    Operation {
        method,
        path,
        id,
        summary,
        purpose,
        query: Vec::new(),
        body: None,
        answers: Vec::new(),
        problems: &[],
        handler,
    }
}

pub(super) fn read(
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    handler: MethodRouter<Arc<App>>,
) -> Operation {
    operation(("get", Purpose::Read), path, id, summary, handler)
}

fn probe(path: &'static str, id: &'static str, summary: &'static str, handler: MethodRouter<Arc<App>>) -> Operation {
    operation(("get", Purpose::Probe), path, id, summary, handler)
        .answers(200, "Yes; what was looked at", JSON, Schema::of::<Verdict>())
        .answers(503, "No; what was looked at", JSON, Schema::of::<Verdict>())
}

fn change(path: &'static str, id: &'static str, summary: &'static str, handler: MethodRouter<Arc<App>>) -> Operation {
    operation(("post", Purpose::Change), path, id, summary, handler).answers(
        202,
        "Begun: the pipeline as it is now",
        JSON,
        Schema::of::<PipelineView>(),
    )
}

fn act(path: &'static str, id: &'static str, action: Action, summary: &'static str) -> Operation {
    let handler = async move |State(app): State<Arc<App>>, Names(name): Names<String>| {
        accepted(ask(&app, move |control| control.act(&name, action)).await)
    };
    change(path, id, summary, post(handler)).problems(&[404, 409, 503])
}

impl Operation {
    pub(super) fn answers(mut self, code: u16, what: &'static str, media: &'static str, schema: Schema) -> Self {
        self.answers.push((code, what, media, schema));
        self
    }

    fn body(mut self, schema: Value) -> Self {
        self.body = Some(schema);
        self
    }

    pub(super) fn problems(mut self, codes: &'static [u16]) -> Self {
        self.problems = codes;
        self
    }
}

async fn metrics(State(app): State<Arc<App>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], app.board.metrics())
}

fn verdict(verdict: &Verdict) -> Response {
    let code = if verdict.ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(verdict)).into_response()
}

/// Ask the pipelines, on a thread that may block.
async fn ask<T: Serialize + Send + 'static>(
    app: &Arc<App>,
    question: impl FnOnce(&dyn Control) -> Result<T, Refusal> + Send + 'static,
) -> Result<Json<T>, Problem> {
    let Some(control) = app.control.clone() else {
        return Err(Problem::new(StatusCode::NOT_FOUND, "this process runs one pipeline"));
    };
    let answered = tokio::task::spawn_blocking(move || question(&*control)).await;
    let died = |_| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "this is a bug in harvestd: the log has a message");
    Ok(Json(answered.map_err(died)??))
}

fn accepted<T: Serialize>(answer: Result<Json<T>, Problem>) -> Result<Response, Problem> {
    Ok((StatusCode::ACCEPTED, answer?).into_response())
}

/// The names in a path.
pub(super) struct Names<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Names<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let unknown = |_: PathRejection| Problem::new(StatusCode::NOT_FOUND, "a name in the path is not UTF-8");
        Ok(Self(Path::<T>::from_request_parts(parts, state).await.map_err(unknown)?.0))
    }
}

/// The JSON that was sent.
async fn body<T: DeserializeOwned>(request: Request) -> Result<T, Problem> {
    let media = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if media.split(';').next().unwrap_or_default().trim() != JSON {
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "send application/json"));
    }
    let bytes = axum::body::to_bytes(request.into_body(), BODY_BYTES_MAX).await.map_err(|_| too_large())?;
    serde_json::from_slice(&bytes).map_err(|e| Problem::new(StatusCode::BAD_REQUEST, format!("this is not JSON: {e}")))
}

/// Count what was answered.
async fn count(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let response = next.run(request).await;
    app.board.answered(path.as_deref().unwrap_or("none"), response.status().as_u16());
    response
}
