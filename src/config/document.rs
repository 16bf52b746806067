//! A YAML document as a tree whose nodes know where they were written.
//!
//! One document a file. Duplicate keys, keys that are not text, and numbers that JSON cannot hold are problems; aliases
//! are expanded under a budget, so that a small file cannot become a large tree. Tags other than YAML's own are ignored.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use saphyr::Scalar;
use saphyr_parser::{Event, Marker, Parser, ScalarStyle, StrInput, Tag};
use serde_json::{Number, Value};

use super::problems::{Place, Problem, Severity};

/// Bytes of a pipeline file, at most.
pub(crate) const FILE_BYTES_MAX: u64 = 1 << 20;
/// Nodes of the tree after aliases are expanded, at most: a real pipeline has a few hundred.
const NODES_MAX: usize = 50_000;
/// Nesting, at most: the format's own depth is 5.
const DEPTH_MAX: usize = 64;

/// A value and where it was written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    /// Where it was written.
    pub(crate) place: Place,
    /// The value.
    pub(crate) data: Data,
    /// The text before variables were expanded, where there were any.
    pub(crate) written: Option<String>,
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Data {
    /// `null`, `~` or nothing.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole or finite decimal number.
    Number(Number),
    /// Text; `plain` if it stood without quotes.
    Text {
        /// The text.
        text: String,
        /// Whether it stood without quotes.
        plain: bool,
    },
    /// A list.
    List(Vec<Node>),
    /// A mapping, in the order of the file.
    Map(Vec<Entry>),
    /// A value that could not be read, which has been reported: it is not judged further.
    Unreadable,
}

/// One entry of a mapping.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    /// The key.
    pub(crate) key: String,
    /// Where the key was written.
    pub(crate) place: Place,
    /// The value.
    pub(crate) value: Node,
}

impl Node {
    /// A node.
    pub(crate) fn new(place: Place, data: Data) -> Self {
        Self { place, data, written: None }
    }

    /// The entry `key` of a mapping.
    pub(crate) fn get(&self, key: &str) -> Option<&Entry> {
        match &self.data {
            Data::Map(entries) => entries.iter().find(|e| e.key == key),
            _ => None,
        }
    }

    /// The node at `path`, and the deepest place on the way there, which is where something missing would stand.
    pub(crate) fn at(&self, path: &Path) -> (Option<&Self>, Place) {
        let mut node = self;
        let mut place = self.place.clone();
        for step in &path.0 {
            let next = match (step, &node.data) {
                (Step::Key(key), Data::Map(_)) => node.get(key).map(|e| (&e.value, &e.place)),
                (Step::Index(i), Data::List(items)) => items.get(*i).map(|n| (n, &n.place)),
                _ => None,
            };
            let Some((child, stands)) = next else { return (None, place) };
            // a scalar's own place is closest; a section is named by its key
            place = if matches!(child.data, Data::Map(_) | Data::List(_)) { stands } else { &child.place }.clone();
            node = child;
        }
        (Some(node), place)
    }

    /// As JSON.
    pub(crate) fn to_value(&self) -> Value {
        match &self.data {
            Data::Null | Data::Unreadable => Value::Null,
            Data::Bool(b) => Value::Bool(*b),
            Data::Number(n) => Value::Number(n.clone()),
            Data::Text { text, .. } => Value::String(text.clone()),
            Data::List(items) => items.iter().map(Self::to_value).collect(),
            Data::Map(entries) => entries.iter().map(|e| (e.key.clone(), e.value.to_value())).collect(),
        }
    }

    /// For messages: one line, shortened, variables unexpanded.
    pub(crate) fn shown(&self) -> String {
        const CHARS_MAX: usize = 60;
        let text = match (&self.written, &self.data) {
            (Some(written), _) => written.clone(),
            (None, Data::Null) => "null".to_owned(),
            (None, Data::Text { text, plain: true }) => text.clone(),
            (None, Data::Text { text, plain: false }) => format!("{text:?}"),
            (None, Data::List(items)) if items.is_empty() => "[]".to_owned(),
            (None, Data::List(items)) => format!("a list of {}", items.len()),
            (None, Data::Map(_)) => "a section".to_owned(),
            (None, data) => Self::new(Place::File, data.clone()).to_value().to_string(),
        };
        let line = crate::store::redact(&text.replace('\n', " "));
        if line.chars().count() <= CHARS_MAX {
            return line;
        }
        line.chars().take(CHARS_MAX).chain(std::iter::once('…')).collect()
    }

    /// Every node of the tree, with its path, parents first.
    pub(crate) fn walk(&self, path: &Path, visit: &mut impl FnMut(&Path, &Self)) {
        visit(path, self);
        match &self.data {
            Data::List(items) => items.iter().enumerate().for_each(|(i, n)| n.walk(&path.index(i), visit)),
            Data::Map(entries) => entries.iter().for_each(|e| e.value.walk(&path.key(&e.key), visit)),
            _ => {}
        }
    }
}

/// A step into a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Into a mapping.
    Key(String),
    /// Into a list.
    Index(usize),
}

/// A path into a tree, written `trainers[0].coder.k` or `trainers.0.coder.k`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Path(pub(crate) Vec<Step>);

impl Path {
    /// From its text. Empty parts are errors.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut steps = Vec::new();
        for part in text.split('.') {
            let (name, mut rest) = part.split_at(part.find('[').unwrap_or(part.len()));
            match name.parse::<usize>() {
                Ok(index) => steps.push(Step::Index(index)),
                Err(_) if name.is_empty() => return None,
                Err(_) => steps.push(Step::Key(name.to_owned())),
            }
            while !rest.is_empty() {
                let (index, after) = rest.strip_prefix('[')?.split_once(']')?;
                steps.push(Step::Index(index.parse().ok()?));
                rest = after;
            }
        }
        Some(Self(steps))
    }

    /// The path of the entry `key` below this one.
    pub(crate) fn key(&self, key: &str) -> Self {
        Self(self.0.iter().cloned().chain([Step::Key(key.to_owned())]).collect())
    }

    /// The path of the item `index` below this one.
    pub(crate) fn index(&self, index: usize) -> Self {
        Self(self.0.iter().cloned().chain([Step::Index(index)]).collect())
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if i == 0 => f.write_str(key)?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// How places are named while a text is read.
#[derive(Clone, Debug)]
pub(crate) enum Origin {
    /// The file: places are lines.
    File,
    /// A `--set` argument: the place is the argument.
    Set(String),
    /// A trainer that was added while the pipeline ran: the place is its name.
    Added(String),
}

/// Read one YAML document.
pub(crate) fn parse(text: &str, origin: Origin) -> Result<Node, Vec<Problem>> {
    let mut reader =
        Reader { parser: Parser::new_from_str(text), origin, anchors: HashMap::new(), nodes: 0, problems: vec![] };
    let tree = reader.document();
    match tree {
        Ok(node) if reader.problems.is_empty() => Ok(node),
        Ok(_) => Err(reader.problems),
        Err(problem) => {
            reader.problems.push(*problem);
            Err(reader.problems)
        }
    }
}

/// Turns the parser's events into a tree.
struct Reader<'a> {
    parser: Parser<'a, StrInput<'a>>,
    origin: Origin,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    problems: Vec<Problem>,
}

type Read<T> = Result<T, Box<Problem>>;

impl<'a> Reader<'a> {
    fn place(&self, mark: Marker) -> Place {
        match &self.origin {
            Origin::File => Place::Line(u32::try_from(mark.line()).unwrap_or(u32::MAX)),
            Origin::Set(argument) => Place::Set(argument.clone()),
            Origin::Added(name) => Place::Added(name.clone()),
        }
    }

    fn problem(&self, mark: Marker, path: &Path, rule: impl Into<String>) -> Problem {
        Problem {
            severity: Severity::Error,
            place: self.place(mark),
            path: path.to_string(),
            value: None,
            rule: rule.into(),
            hint: None,
        }
    }

    fn next(&mut self) -> Read<(Event<'a>, Marker)> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => Ok((event, span.start)),
            Some(Err(e)) => {
                let rule = format!("is not YAML: {} (column {})", e.info(), e.marker().col() + 1);
                Err(Box::new(self.problem(*e.marker(), &Path::default(), rule)))
            }
            None => Ok((Event::StreamEnd, Marker::default())),
        }
    }

    fn document(&mut self) -> Read<Node> {
        let mut tree = None;
        loop {
            let (event, mark) = self.next()?;
            match event {
                Event::StreamEnd => break,
                Event::StreamStart | Event::Nothing | Event::DocumentStart(_) | Event::DocumentEnd => {}
                _ if tree.is_some() => {
                    let rule = "a second YAML document begins here: write one pipeline a file";
                    return Err(Box::new(self.problem(mark, &Path::default(), rule)));
                }
                event => tree = Some(self.node(event, mark, &Path::default())?),
            }
        }
        Ok(tree.unwrap_or_else(|| Node::new(Place::File, Data::Null)))
    }

    /// The node that `event` begins.
    fn node(&mut self, event: Event<'a>, mark: Marker, path: &Path) -> Read<Node> {
        self.nodes += 1;
        if self.nodes > NODES_MAX || path.0.len() > DEPTH_MAX {
            return Err(Box::new(self.problem(mark, &Path::default(), "is too large or too deep for a pipeline")));
        }
        let (anchor, data) = match event {
            Event::Alias(id) => return self.alias(id, mark, path),
            Event::Scalar(text, style, anchor, tag) => (anchor, self.scalar(text, style, tag.as_ref(), mark, path)),
            Event::SequenceStart(anchor, _) => (anchor, self.list(path)?),
            Event::MappingStart(anchor, _) => (anchor, self.map(path)?),
            other => return Err(Box::new(self.problem(mark, path, format!("is not YAML: unexpected {other:?}")))),
        };
        let node = Node::new(self.place(mark), data);
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn alias(&mut self, id: usize, mark: Marker, path: &Path) -> Read<Node> {
        let Some(node) = self.anchors.get(&id).cloned() else {
            return Err(Box::new(self.problem(mark, path, "is an alias of something that contains it")));
        };
        let mut deepest = 0;
        node.walk(path, &mut |p, _| {
            self.nodes += 1;
            deepest = deepest.max(p.0.len());
        });
        if self.nodes > NODES_MAX || deepest > DEPTH_MAX {
            return Err(Box::new(self.problem(mark, path, "its aliases expand to more than a pipeline can hold")));
        }
        Ok(Node { place: self.place(mark), ..node })
    }

    fn list(&mut self, path: &Path) -> Read<Data> {
        let mut items = Vec::new();
        loop {
            let (event, mark) = self.next()?;
            if event == Event::SequenceEnd {
                return Ok(Data::List(items));
            }
            items.push(self.node(event, mark, &path.index(items.len()))?);
        }
    }

    fn map(&mut self, path: &Path) -> Read<Data> {
        let mut entries: Vec<Entry> = Vec::new();
        loop {
            let (event, mark) = self.next()?;
            if event == Event::MappingEnd {
                return Ok(Data::Map(entries));
            }
            let Event::Scalar(key, ..) = event else {
                return Err(Box::new(self.problem(mark, path, "has a key that is not text")));
            };
            let key = key.into_owned();
            let here = path.key(&key);
            let (event, value_mark) = self.next()?;
            let value = self.node(event, value_mark, &here)?;
            if let Some(first) = entries.iter().find(|e| e.key == key) {
                let before = match &first.place {
                    Place::Line(line) => format!("stands twice: first on line {line}"),
                    Place::Set(_) | Place::Added(_) | Place::File => "stands twice".to_owned(),
                };
                self.problems.push(self.problem(mark, &here, before));
                continue;
            }
            entries.push(Entry { key, place: self.place(mark), value });
        }
    }

    fn scalar(
        &mut self,
        text: Cow<'a, str>,
        style: ScalarStyle,
        tag: Option<&Cow<'a, Tag>>,
        mark: Marker,
        path: &Path,
    ) -> Data {
        let shown = text.to_string();
        let plain = style == ScalarStyle::Plain;
        if plain && tag.is_none() {
            return plain_scalar(&shown).unwrap_or_else(|rule| {
                self.problems.push(Problem { value: Some(shown), ..self.problem(mark, path, rule) });
                Data::Unreadable
            });
        }
        match Scalar::parse_from_cow_and_metadata(text, style, tag) {
            Some(Scalar::Null) => Data::Null,
            Some(Scalar::Boolean(b)) => Data::Bool(b),
            Some(Scalar::Integer(i)) => Data::Number(i.into()),
            Some(Scalar::FloatingPoint(f)) => Number::from_f64(*f).map_or(Data::Unreadable, Data::Number),
            Some(Scalar::String(_)) => Data::Text { text: shown, plain },
            None => {
                let rule = "does not have the type that its tag says";
                self.problems.push(Problem { value: Some(shown), ..self.problem(mark, path, rule) });
                Data::Null
            }
        }
    }
}

/// What a scalar without quotes means.
pub(crate) fn plain_scalar(text: &str) -> Result<Data, String> {
    if text.is_empty() {
        return Ok(Data::Null);
    }
    if let Ok(whole) = text.parse::<u64>() {
        return Ok(Data::Number(whole.into()));
    }
    Ok(match Scalar::parse_from_cow(text.into()) {
        Scalar::Null => Data::Null,
        Scalar::Boolean(b) => Data::Bool(b),
        Scalar::Integer(i) => Data::Number(i.into()),
        Scalar::FloatingPoint(f) => Data::Number(Number::from_f64(*f).ok_or("must be a finite number")?),
        Scalar::String(text) => Data::Text { text: text.into_owned(), plain: true },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Node {
        parse(text, Origin::File).unwrap()
    }

    fn problems(text: &str) -> Vec<String> {
        parse(text, Origin::File).unwrap_err().iter().map(|p| p.line("f")).collect()
    }

    #[test]
    fn scalars_are_what_yaml_says() {
        let tree = read("a: 1\nb: 1.5\nc: yes\nd: true\ne: ~\nf: '1'\ng: 18446744073709551615\nh: 3.0e-4\ni: 0x10\n");
        let expected = serde_json::json!({"a": 1, "b": 1.5, "c": "yes", "d": true, "e": null, "f": "1",
            "g": u64::MAX, "h": 3.0e-4, "i": 16});
        assert_eq!(tree.to_value(), expected);
    }

    #[test]
    fn nodes_know_their_lines() {
        let tree = read("a:\n  - x: 1\n\n    y: [2,\n      3]\n");
        let place = |path: &str| tree.at(&Path::parse(path).unwrap()).1;
        assert_eq!(place("a"), Place::Line(1));
        assert_eq!(place("a[0].x"), Place::Line(2));
        assert_eq!(place("a.0.y"), Place::Line(4));
        assert_eq!(place("a[0].y[1]"), Place::Line(5));
        assert_eq!(place("a[0].missing.deeper"), Place::Line(2));
    }

    #[test]
    fn duplicate_keys_are_refused_with_both_lines() {
        assert_eq!(
            problems("a: 1\nb: {x: 1,\n  x: 2}\na: 2\n"),
            ["f:3: b.x: stands twice: first on line 2", "f:4: a: stands twice: first on line 1"]
        );
    }

    #[test]
    fn syntax_errors_have_a_line() {
        let found = problems("a: 1\nb: [1, 2\nc: 3\n");
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("f:3: is not YAML: "), "{found:?}");
        assert_eq!(problems("a: .nan\n"), ["f:1: a: .nan: must be a finite number"]);
        assert!(problems("a: 1\n---\nb: 2\n")[0].contains("second YAML document"));
    }

    #[test]
    fn aliases_work_but_do_not_explode() {
        assert_eq!(read("a: &x {k: 1}\nb: *x\n").to_value(), serde_json::json!({"a": {"k": 1}, "b": {"k": 1}}));
        let mut bomb = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n".to_owned();
        for i in 1..12 {
            let refs = vec![format!("*a{}", i - 1); 10].join(", ");
            bomb.push_str(&format!("a{i}: &a{i} [{refs}]\n"));
        }
        assert!(problems(&bomb)[0].contains("aliases expand"));
        assert!(problems(&"[".repeat(100))[0].contains("too deep"));
        assert!(problems("a: &x [*x]\n")[0].contains("contains it"));
    }

    #[test]
    fn paths_read_both_spellings() {
        assert_eq!(Path::parse("a[0].b").unwrap(), Path::parse("a.0.b").unwrap());
        assert_eq!(Path::parse("a.0.b").unwrap().to_string(), "a[0].b");
        for wrong in ["", "a..b", "a[", "a[x]", ".a"] {
            assert_eq!(Path::parse(wrong), None, "{wrong}");
        }
    }
}
