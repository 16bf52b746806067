//! What the suite found, as JSON for machines and as Markdown for people.

use std::io;
use std::path::Path;
use std::time::Duration;

use harvestd::runtime::clock::Clock;
use serde_json::{Value, json};

/// Checks, figures, and what was left out.
#[derive(Default)]
pub struct Report {
    about: Vec<(String, String)>,
    checks: Vec<(String, bool, String)>,
    figures: Vec<(String, String, f64, String)>,
    left_out: Vec<(String, String)>,
    took: Vec<(String, f64)>,
}

impl Report {
    /// Something about the machine.
    pub fn about(&mut self, what: &str, value: &str) {
        self.about.push((what.to_owned(), value.to_owned()));
    }

    /// Something that is right or wrong.
    pub fn check(&mut self, what: &str, is_good: bool, text: &str) {
        eprintln!("  {} {what}: {text}", if is_good { "ok  " } else { "FAIL" });
        self.checks.push((what.to_owned(), is_good, text.to_owned()));
    }

    /// A figure that was measured.
    pub fn number(&mut self, part: &str, what: &str, value: f64, unit: &str) {
        eprintln!("  {part}: {what}: {value:.4} {unit}");
        self.figures.push((part.to_owned(), what.to_owned(), value, unit.to_owned()));
    }

    /// A part that did not run.
    pub fn leave_out(&mut self, part: &str, why: &str) {
        eprintln!("{part}: left out, {why}");
        self.left_out.push((part.to_owned(), why.to_owned()));
    }

    /// How long a part ran.
    pub fn took(&mut self, part: &str, time: Duration) {
        self.took.push((part.to_owned(), time.as_secs_f64()));
    }

    /// Whether something was checked, and all of it is right.
    pub fn is_good(&self) -> bool {
        !self.checks.is_empty() && self.checks.iter().all(|(_, is_good, _)| *is_good)
    }

    /// Write `gpu.json` and `gpu.md` into `folder`.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        std::fs::create_dir_all(folder)?;
        let date = Clock::system().timestamp();
        let value: Value = json!({
            "date": date,
            "about": self.about.iter().map(|(what, value)| (what.clone(), json!(value))).collect::<serde_json::Map<_, _>>(),
            "is_good": self.is_good(),
            "checks": self.checks.iter().map(|(what, ok, text)| json!({"what": what, "ok": ok, "text": text})).collect::<Vec<_>>(),
            "figures": self.figures.iter().map(|(part, what, value, unit)| {
                json!({"part": part, "what": what, "value": value, "unit": unit})
            }).collect::<Vec<_>>(),
            "left_out": self.left_out.iter().map(|(part, why)| json!({"part": part, "why": why})).collect::<Vec<_>>(),
            "seconds": self.took.iter().map(|(part, s)| (part.clone(), json!(s))).collect::<serde_json::Map<_, _>>(),
        });
        std::fs::write(folder.join("gpu.json"), serde_json::to_vec_pretty(&value)?)?;
        std::fs::write(folder.join("gpu.md"), self.markdown(&date))
    }

    fn markdown(&self, date: &str) -> String {
        let mut text = format!("# GPU suite, {date}\n\n");
        for (what, value) in &self.about {
            text += &format!("- {what}: {value}\n");
        }
        let outcome = if self.is_good() { "all checks passed" } else { "NOT all checks passed" };
        text += &format!("- outcome: {outcome}\n\n| check | | |\n|---|---|---|\n");
        for (what, is_good, found) in &self.checks {
            text += &format!("| {what} | {} | {found} |\n", if *is_good { "ok" } else { "**failed**" });
        }
        text += "\n| part | measured | value |\n|---|---|---|\n";
        for (part, what, value, unit) in &self.figures {
            text += &format!("| {part} | {what} | {value:.4} {unit} |\n");
        }
        for (part, why) in &self.left_out {
            text += &format!("\nLeft out: {part} ({why}).\n");
        }
        text
    }
}
