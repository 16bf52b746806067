//! How a verb fails: what is printed, and the exit code.

use std::process::ExitCode;

use serde_json::json;

use super::output;
use crate::config::Problems;
use crate::error::{Error, ErrorKind};

/// What a verb comes to.
pub(crate) type Outcome = Result<ExitCode, Failure>;

/// Why a verb could not do its work.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The pipeline is wrong.
    Problems(Problems),
    /// Something else.
    Error(Error),
}

impl From<Problems> for Failure {
    fn from(problems: Problems) -> Self {
        Self::Problems(problems)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl Failure {
    /// Print it: to standard error for people and, with `--json`, as one object on standard output as well.
    pub(crate) fn report(self, json: bool) -> ExitCode {
        let (kind, message, problems) = match self {
            Self::Problems(problems) => {
                let list = problems.to_json();
                (ErrorKind::Config, Error::from(problems).to_string(), list)
            }
            Self::Error(error) => (error.kind(), error.to_string(), json!([])),
        };
        output::complain(&message);
        if json {
            output::print_json(&json!({"error": {"kind": kind, "message": message, "problems": problems}}));
        }
        ExitCode::from(kind.exit_code())
    }
}
