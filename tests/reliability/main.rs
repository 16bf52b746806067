//! Datasets under faults: several processes, local disasters, simulated workers; and the table that says how it went.

mod disasters;
mod linear;
mod races;
mod sim_store;
mod simulation;
#[path = "../support/mod.rs"]
mod support;

use support::reliability::{Difference, FAULTS, Table, row};

/// The table has a row for each fault, as it was written by the test, and no other.
#[test]
fn the_table_is_in_step_with_the_faults() {
    if std::env::var_os("UPDATE_DOCS").is_some() {
        return; // rows are just being written
    }
    let table = Table::read();
    for fault in FAULTS {
        let found = table.rows.get(fault.name).map_or("nothing", String::as_str);
        let runs = found.split(" | ").nth(3).and_then(|n| n.parse().ok()).unwrap_or(0);
        assert!(runs > 0, "`{}` has no row with its runs: run its test with UPDATE_DOCS=1", fault.name);
        assert_eq!(found, row(fault, runs, Difference::default()), "run the test `{}` with UPDATE_DOCS=1", fault.test);
    }
    let known = |name: &String| FAULTS.iter().any(|fault| fault.name == name);
    assert!(table.rows.keys().all(known), "{:?}", table.rows.keys());
}
