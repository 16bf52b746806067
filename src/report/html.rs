//! Text, numbers and tables as HTML.

/// `text` with what HTML would take for markup escaped.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// A number in four significant digits; `-` if it is none.
pub fn number(x: f64) -> String {
    let size = x.abs();
    match size {
        _ if !x.is_finite() => "-".to_owned(),
        0.0 => "0".to_owned(),
        _ if !(1e-4..1e6).contains(&size) => format!("{x:.2e}"),
        _ => {
            let digits = (3 - size.log10().floor() as i32).clamp(0, 7) as usize;
            format!("{x:.digits$}")
        }
    }
}

/// As [`number`], or `-` for nothing.
pub fn maybe(x: Option<f64>) -> String {
    x.map_or_else(|| "-".to_owned(), number)
}

/// A share as percent.
pub fn percent(share: f64) -> String {
    if share.is_finite() { format!("{:.2}%", 100.0 * share) } else { "-".to_owned() }
}

/// A whole number with its thousands apart.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let first = digits.len() % 3;
    let groups = digits.as_bytes()[first..].chunks(3).map(|group| String::from_utf8_lossy(group).into_owned());
    let head = (first > 0).then(|| digits[..first].to_owned());
    head.into_iter().chain(groups).collect::<Vec<_>>().join("\u{202f}")
}

/// A table: the first column names its row, the others hold numbers. Header cells are (text, explanation).
pub fn table(header: &[(&str, &str)], rows: &[Vec<String>]) -> String {
    let mut out = String::from("<div class=\"scroll\"><table><thead><tr>");
    for (name, explanation) in header {
        let (name, explanation) = (escaped(name), escaped(explanation));
        out.push_str(&format!("<th scope=\"col\" title=\"{explanation}\">{name}</th>"));
    }
    out.push_str("</tr></thead><tbody>");
    for row in rows {
        out.push_str("<tr>");
        for (i, cell) in row.iter().enumerate() {
            let cell = escaped(cell);
            out.push_str(&if i == 0 { format!("<th scope=\"row\">{cell}</th>") } else { format!("<td>{cell}</td>") });
        }
        out.push_str("</tr>");
    }
    out.push_str("</tbody></table></div>");
    out
}
