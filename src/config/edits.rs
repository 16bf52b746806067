//! Changes of a pipeline's trainers that are not in its file: those that were added while it ran, and those that were
//! stopped. They are put into the tree before it is checked, so that they obey the same rules as the file.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::document::{Data, Entry, Node, Origin, parse};
use super::problems::{Place, Problem};

/// What was changed since the file was written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edits {
    /// Trainers that were added, as they would stand in the file; no variables are expanded in them.
    #[serde(default)]
    pub added: Vec<Value>,
    /// Names of trainers, of the file or added, that were stopped.
    #[serde(default)]
    pub stopped: Vec<String>,
}

impl Edits {
    /// Whether nothing was changed.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.stopped.is_empty()
    }

    /// Names of the added trainers.
    pub fn added_names(&self) -> impl Iterator<Item = &str> {
        self.added.iter().filter_map(|trainer| trainer["name"].as_str())
    }
}

/// Add what was added.
pub(crate) fn add(tree: &mut Node, edits: &Edits, problems: &mut Vec<Problem>) {
    let Data::Map(entries) = &mut tree.data else { return };
    for trainer in &edits.added {
        let name = trainer["name"].as_str().unwrap_or("without a name").to_owned();
        // JSON is YAML
        let parsed = parse(&trainer.to_string(), Origin::Added(name.clone()));
        let node = match parsed {
            Ok(node) => node,
            Err(found) => {
                problems.extend(found);
                continue;
            }
        };
        let at = entries.iter().position(|e| e.key == "trainers").unwrap_or_else(|| {
            let place = Place::Added(name.clone());
            let value = Node::new(place.clone(), Data::List(Vec::new()));
            entries.push(Entry { key: "trainers".to_owned(), place, value });
            entries.len() - 1
        });
        let list = &mut entries[at].value;
        if list.data == Data::Null {
            list.data = Data::List(Vec::new());
        }
        if let Data::List(items) = &mut list.data {
            items.push(node);
        }
    }
}

/// Take out what was stopped. After grids were expanded: their trainers have names of their own.
pub(crate) fn stop(tree: &mut Node, edits: &Edits) {
    let Data::Map(entries) = &mut tree.data else { return };
    let Some(trainers) = entries.iter_mut().find(|e| e.key == "trainers") else { return };
    let Data::List(items) = &mut trainers.value.data else { return };
    let name = |node: &Node| match node.get("name").map(|entry| &entry.value.data) {
        Some(Data::Text { text, .. }) => Some(text.clone()),
        _ => None,
    };
    items.retain(|node| name(node).is_none_or(|name| !edits.stopped.contains(&name)));
}
