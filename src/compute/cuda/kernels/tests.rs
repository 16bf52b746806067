//! What Rust says of the kernels is what their source says.

use std::collections::BTreeSet;

use super::*;

/// Every struct, with the file that declares it.
fn declarations() -> Vec<(Source, String)> {
    fn of<A: Arguments>(source: Source) -> (Source, String) {
        (source, A::declaration())
    }
    vec![
        of::<embed::Embed>(embed::SOURCE),
        of::<add_norm::AddNorm>(add_norm::SOURCE),
        of::<rope::Rope>(rope::SOURCE),
        of::<attention::Attention>(attention::SOURCE),
        of::<act::Act>(act::SOURCE),
        of::<capture::Capture>(capture::SOURCE),
        of::<capture::Splice>(capture::SOURCE),
        of::<cross_entropy::CrossEntropy>(cross_entropy::SOURCE),
        of::<gather::Gather>(gather::SOURCE),
        of::<select::TopK>(select::SOURCE),
        of::<select::BatchThreshold>(select::SOURCE),
        of::<select::BatchTies>(select::SOURCE),
        of::<select::Compact>(select::SOURCE),
        of::<decode::Decode>(decode::SOURCE),
        of::<csr::Count>(csr::SOURCE),
        of::<csr::Scan>(csr::SOURCE),
        of::<csr::Scatter>(csr::SOURCE),
        of::<csr::Sort>(csr::SOURCE),
        of::<latent::Adam>(latent::SOURCE),
        of::<latent::Entries>(latent::SOURCE),
        of::<latent::Weights>(latent::SOURCE),
        of::<latent::LatentStep>(latent::SOURCE),
        of::<latent::LatentGrad>(latent::SOURCE),
        of::<latent::LatentApply>(latent::SOURCE),
        of::<reduce::Columns>(reduce::SOURCE),
        of::<reduce::Finish>(reduce::SOURCE),
        of::<reduce::Stats>(reduce::SOURCE),
        of::<reduce::Idle>(reduce::SOURCE),
        of::<elementwise::Combine>(elementwise::SOURCE),
        of::<elementwise::AttentionMaps>(elementwise::SOURCE),
        of::<rows::RowOp>(rows::SOURCE),
        of::<rows::Blend>(rows::SOURCE),
        of::<rows::Center>(rows::SOURCE),
        of::<rows::Split>(rows::SOURCE),
        of::<rows::Squares>(rows::SOURCE),
        of::<rows::Take>(rows::SOURCE),
        of::<rows::AdamUpdate>(rows::SOURCE),
        of::<entries::SparseRows>(entries::SOURCE),
        of::<entries::EntryDots>(entries::SOURCE),
        of::<entries::TermGradients>(entries::SOURCE),
        of::<entries::LatentSums>(entries::SOURCE),
        of::<entries::PlaceOp>(entries::SOURCE),
        of::<entries::Rename>(entries::SOURCE),
        of::<PlainProduct>(plain_product::SOURCE),
    ]
}

#[test]
fn arguments_are_those_of_the_source() {
    for (source, declaration) in declarations() {
        assert!(source.text.contains(&declaration), "{}.cu does not have\n{declaration}", source.name);
    }
    let declared: usize = SOURCES.iter().map(|s| s.text.lines().filter(|l| l.starts_with("struct ")).count()).sum();
    assert_eq!(declared, declarations().len(), "a struct of the source is not in Rust, or not in this test");
}

#[test]
fn kernels_are_those_of_the_source() {
    let mut names = BTreeSet::new();
    for source in SOURCES {
        let in_source: Vec<_> = source.text.lines().filter_map(|line| line.strip_prefix("KERNEL(")).collect();
        assert_eq!(in_source.len(), source.entries.len(), "{}.cu", source.name);
        for (line, entry) in in_source.iter().zip(source.entries) {
            let mut words = line.split([',', ')']).map(str::trim);
            assert_eq!(words.next(), Some(entry.name), "{}.cu", source.name);
            assert_eq!(words.nth(1).unwrap().parse::<u32>().unwrap(), entry.threads, "{}", entry.name);
            assert!(names.insert(entry.name), "{} is there twice", entry.name);
            // a multiprocessor has 65536 registers: a block must fit
            assert!(entry.registers * entry.threads <= 65536, "{}", entry.name);
        }
    }
}

#[test]
#[should_panic(expected = "rows of 12 numbers")]
fn rows_that_are_no_vectors_are_refused() {
    let _ = embed::Embed { n: 1, d: 12, ..Default::default() }.launch();
}
