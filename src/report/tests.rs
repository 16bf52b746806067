use super::chart::{Axis, Mark, Series, chart};
use super::html::{count, escaped, number, table};
use super::{CoderReport, HeldOut, PairReport, Report, page};
use crate::evaluation::Evaluation;
use crate::trainer::history::{HeldOutPoint, HistoryPoint};

fn linear(label: &str) -> Axis<'_> {
    Axis { label, log: false, from_zero: false }
}

fn series(points: Vec<(f64, f64)>) -> Series {
    Series { name: "a<b".to_owned(), colour: 9, points }
}

#[test]
fn numbers_are_short_and_text_is_text() {
    let shown: Vec<String> = [0.0, 1.0, -0.5, 0.123456, 12345.6, 1e-9, 3e8, f64::NAN].into_iter().map(number).collect();
    assert_eq!(shown, ["0", "1.000", "-0.5000", "0.1235", "12346", "1.00e-9", "3.00e8", "-"]);
    assert_eq!((count(7), count(1234567)), ("7".to_owned(), "1\u{202f}234\u{202f}567".to_owned()));
    assert_eq!(escaped("<a href='x'>&\"</a>"), "&lt;a href=&#39;x&#39;&gt;&amp;&quot;&lt;/a&gt;");
    let table = table(&[("n<", "what \"n\" is")], &[vec!["<script>".to_owned()]]);
    assert!(table.contains("n&lt;") && table.contains("&lt;script&gt;") && table.contains("what &quot;n&quot;"));
}

#[test]
fn a_chart_draws_what_can_be_drawn() {
    let log = Axis { log: true, ..linear("y") };
    let points = vec![(0.0, 1.0), (1.0, 0.0), (2.0, f64::NAN), (3.0, 100.0), (f64::INFINITY, 5.0)];
    let drawn = chart("t", Mark::Line, linear("x"), log, &[series(points.clone())]).unwrap();
    let path = drawn.split("class=\"line c1\" d=\"").nth(1).unwrap().split('"').next().unwrap();
    assert_eq!(path.matches('L').count(), 1, "two points are left: {path}");
    assert!(!drawn.contains("NaN") && !drawn.contains("inf"), "{drawn}");
    let dots = chart("t", Mark::Dot, linear("x"), linear("y"), &[series(vec![(5.0, 5.0)])]).unwrap();
    assert!(dots.contains("a&lt;b") && dots.contains("<circle"), "one point alone has a place: {dots}");
    assert!(!dots.contains("NaN"), "{dots}");
    assert_eq!(chart("t", Mark::Line, linear("x"), log, &[series(vec![(1.0, -1.0)])]), None);
    assert_eq!(chart("t", Mark::Steps, linear("x"), log, &[]), None);
    // ticks are inside
    let steps = chart("t", Mark::Steps, linear("x"), linear("y"), &[series(vec![(0.0, 0.0), (1.0, 7.0)])]).unwrap();
    let places = steps.split("<text class=\"tick\" x=\"").skip(1).map(|t| t.split('"').next().unwrap());
    assert!(places.clone().count() > 6 && places.clone().all(|x| (0.0..=560.0).contains(&x.parse::<f64>().unwrap())));
}

#[test]
fn a_page_asks_for_nothing_and_names_everything() {
    let coder = |name: &str| CoderReport {
        name: name.to_owned(),
        site: "blocks.0.hook_resid_post".to_owned(),
        latents: 4096,
        evaluation: Some(Evaluation::default()),
        history: vec![HistoryPoint { rows: 10, loss: 2.0, ..HistoryPoint::default() }; 2],
        held_out_history: [10, 20].map(|rows| HeldOutPoint { rows, fvu: 0.5, ..HeldOutPoint::default() }).to_vec(),
        ..CoderReport::default()
    };
    let pair = PairReport { first: "one".into(), second: "<two>".into(), ..PairReport::default() };
    let report = Report {
        pipeline: "p&q".to_owned(),
        held_out: HeldOut { source: "text".to_owned(), wanted: 1000, special_tokens: true },
        coders: vec![coder("one"), coder("<two>")],
        pairs: vec![pair],
        ..Report::default()
    };
    let html = page(&report);
    for part in ["<h1>p&amp;q</h1>", "&lt;two&gt;", "special tokens included", "<h2>Pairs</h2>", "<h2>Training</h2>"] {
        assert!(html.contains(part), "{part}");
    }
    for part in ["<two>", "<script", "http:", "https:", "url(", "@import", "src=", "NaN"] {
        assert!(!html.contains(part), "{part}");
    }
    assert!(html.contains("FVU of held-out rows") && !html.contains("FVU of batches"), "zeros have no logarithm");
    assert!(!html.contains("<h2>Dark matter</h2>"), "nothing is said of what was not measured");
    // what was measured of nothing at all is a page too
    assert!(page(&Report::default()).ends_with("</html>\n"));
    let text = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
}
