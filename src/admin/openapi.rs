//! The description of the routes: OpenAPI 3.1, made from the list that the router is made from and from the types that are
//! answered with.

use schemars::JsonSchema;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Map, Value, json};

use crate::admin::problem::{MEDIA_TYPE, Problem};
use crate::admin::routes::{Operation, Purpose};

/// What an answer looks like.
pub(super) enum Schema {
    /// A type.
    Of(fn(&mut SchemaGenerator) -> schemars::Schema),
    /// Something else.
    Plain(Value),
}

impl Schema {
    pub(super) fn of<T: JsonSchema>() -> Self {
        Self::Of(|generator| generator.subschema_for::<T>())
    }

    pub(super) fn text() -> Self {
        Self::Plain(json!({"type": "string"}))
    }

    pub(super) fn any_object() -> Self {
        Self::Plain(json!({"type": "object"}))
    }
}

/// The document.
pub(super) fn describe(operations: &[Operation]) -> Value {
    let mut settings = SchemaSettings::draft2020_12().for_serialize();
    settings.definitions_path = "/components/schemas".into();
    let mut generator = settings.into_generator();
    let problem = generator.subschema_for::<Problem>();
    let mut paths = Map::new();
    for operation in operations {
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method] = describe_one(operation, &problem, &mut generator);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "harvestd",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Pipelines of one `harvestd serve`: watched, paused, resumed, changed.",
            "license": {"name": "Apache-2.0 OR MIT", "identifier": "Apache-2.0 OR MIT"},
        },
        "paths": paths,
        "components": {
            "schemas": generator.take_definitions(true),
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    })
}

fn describe_one(operation: &Operation, problem: &schemars::Schema, generator: &mut SchemaGenerator) -> Value {
    let mut answers = Map::new();
    for (code, what, media, schema) in &operation.answers {
        let schema = match schema {
            Schema::Of(make) => make(generator).to_value(),
            Schema::Plain(value) => value.clone(),
        };
        answers.insert(code.to_string(), json!({"description": what, "content": {(*media): {"schema": schema}}}));
    }
    let of_purpose: &[u16] = match operation.purpose {
        Purpose::Probe => &[405, 413],
        Purpose::Read => &[401, 405, 413],
        Purpose::Change => &[401, 403, 405, 413],
    };
    for code in of_purpose.iter().chain(operation.problems) {
        let content = json!({MEDIA_TYPE: {"schema": problem}});
        let answer = json!({"description": meaning(*code), "content": content});
        answers.entry(code.to_string()).or_insert(answer);
    }
    let names = operation.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let schema_of = |name: &str| match name {
        "latent" => json!({"type": "integer", "minimum": 0, "maximum": u32::MAX}),
        _ => json!({"type": "string", "minLength": 1}),
    };
    let parameters: Vec<Value> = names
        .map(|name| json!({"name": name, "in": "path", "required": true, "schema": schema_of(name)}))
        .chain(operation.query.iter().cloned())
        .collect();
    let mut described = json!({
        "operationId": operation.id,
        "summary": operation.summary,
        "parameters": parameters,
        "responses": answers,
    });
    if let Some(schema) = &operation.body {
        described["requestBody"] = json!({"required": true, "content": {"application/json": {"schema": schema}}});
    }
    described["security"] = match operation.purpose {
        Purpose::Probe => json!([]),
        // a client's certificate, or an open door, serves as well
        Purpose::Read => json!([{}, {"bearer": []}]),
        Purpose::Change => json!([{"bearer": []}]),
    };
    described
}

fn meaning(code: u16) -> &'static str {
    match code {
        400 => "What was sent is not JSON",
        401 => "Neither the token nor a client's certificate was shown",
        403 => {
            "The process was started without a token and without an authority for clients' certificates; or a page of another site asked"
        }
        404 => "There is no such pipeline, trainer or latent",
        405 => "The route has other methods",
        409 => "It cannot be done as things stand; the detail says how it can",
        413 => "There is a body where none is read, or it is too large",
        415 => "What was sent is not application/json",
        422 => "What was sent, or a pipeline file, is wrong; every problem is listed",
        _ => "The process cannot do it now",
    }
}
