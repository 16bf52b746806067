//! Arguments that say which coders a verb looks at, and on how much text.

use clap::Args;

use crate::error::{Error, Result};
use crate::pipeline::judge::{Chosen, Given};
use crate::store::Stores;
use crate::units::Count;

/// Which coders.
#[derive(Debug, Args)]
pub(crate) struct ChosenArgs {
    /// Another coder, and where it is; may be repeated
    #[arg(long = "coder", value_name = "NAME=FOLDER")]
    coders: Vec<String>,
    /// The site of a given coder whose folder does not say it; may be repeated
    #[arg(long = "site", value_name = "NAME=SITE")]
    sites: Vec<String>,
    /// Leave out the pipeline's own trainers
    #[arg(long)]
    only_given: bool,
}

impl ChosenArgs {
    /// Whether the pipeline's own trainers are left out.
    pub(crate) fn only_given(&self) -> bool {
        self.only_given
    }

    /// Their folders, opened.
    pub(crate) fn open(&self, stores: &Stores) -> Result<Chosen> {
        let mut sites = pairs(&self.sites, "SITE")?;
        let mut coders = Vec::new();
        for (name, folder) in pairs(&self.coders, "FOLDER")? {
            let site = sites.iter().position(|(of, _)| *of == name).map(|at| sites.remove(at).1);
            coders.push(Given { folder: stores.open(&folder)?, name, site });
        }
        if let Some((name, _)) = sites.first() {
            return Err(Error::config(format!("--site {name}=...: no coder of that name is given with --coder")));
        }
        Ok(Chosen { trainers: !self.only_given, coders })
    }
}

fn pairs(given: &[String], what: &str) -> Result<Vec<(String, String)>> {
    let split = |text: &String| match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(Error::config(format!("`{text}` is not NAME={what}"))),
    };
    given.iter().map(split).collect()
}

/// A number of tokens that is not 0.
pub(crate) fn at_least_one(text: &str) -> std::result::Result<Count, String> {
    match text.parse::<Count>()? {
        Count(0) => Err("must be at least 1".to_owned()),
        count => Ok(count),
    }
}

/// Tokens to look at: those of the command line, else of the pipeline, else `otherwise`.
pub(crate) fn tokens(given: Option<Count>, of_pipeline: u64, otherwise: u64) -> u64 {
    match (given, of_pipeline) {
        (Some(tokens), _) => tokens.0,
        (None, 0) => otherwise,
        (None, tokens) => tokens,
    }
}
