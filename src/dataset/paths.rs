//! Names of all objects of a dataset, relative to its URL.

/// The header.
pub const HEADER: &str = "dataset.json";
/// Folder of the shards.
pub const SHARDS: &str = "shards";
/// Folder of the commits.
pub const COMMITS: &str = "commits";
/// Folder of the manifests and their segments.
pub const MANIFESTS: &str = "manifests";
/// Folder of the column groups.
pub const COLUMNS: &str = "columns";

/// Folder of the lists of files that a followed corpus consists of.
pub const CORPUS: &str = "corpus";

/// Every folder of a dataset that objects are written to, itself first, column groups' folders left out.
pub const FOLDERS: [&str; 6] = ["", SHARDS, COMMITS, MANIFESTS, COLUMNS, CORPUS];

/// The shard of a part. An attempt that may race with others carries its id, so that no writer overwrites another's.
pub fn shard(unit: u32, part: u32, attempt: Option<&str>) -> String {
    match attempt {
        Some(attempt) => format!("{SHARDS}/{unit:06}-{part:05}-{attempt}.parquet"),
        None => format!("{SHARDS}/{unit:06}-{part:05}.parquet"),
    }
}

/// The commit of a part.
pub fn commit(unit: u32, part: u32) -> String {
    format!("{COMMITS}/{unit:06}-{part:05}.json")
}

/// Unit and part of a commit's file name (without the folder).
pub fn parse_commit(name: &str) -> Option<(u32, u32)> {
    let (unit, part) = name.strip_suffix(".json")?.split_once('-')?;
    Some((unit.parse().ok()?, part.parse().ok()?))
}

/// The manifest of a generation.
pub fn manifest(generation: u64) -> String {
    format!("{MANIFESTS}/{generation:010}.json")
}

/// Generation of a manifest's file name (without the folder).
pub fn parse_manifest(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".json")?;
    (digits.len() >= 10 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// A segment, first named by the manifest of `generation`. Its name holds its checksum, so that racing compactions never
/// write different bytes under one name.
pub fn segment(generation: u64, checksum: &str) -> String {
    format!("{MANIFESTS}/{generation:010}-{}.parquet", checksum.get(..16).unwrap_or(checksum))
}

/// The folder of a column group.
pub fn column_group(name: &str) -> String {
    format!("{COLUMNS}/{name}")
}

/// An entry of the register of column groups.
pub fn register_entry(number: u64) -> String {
    format!("{COLUMNS}/{number:06}.json")
}

/// Number of a register entry's file name (without the folder).
pub fn parse_register_entry(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".json")?;
    (digits.len() >= 6 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commit_names_parse_back() {
        for (unit, part) in [(0, 0), (12, 3), (1_234_567, 100_000)] {
            let name = commit(unit, part);
            assert_eq!(parse_commit(name.strip_prefix("commits/").unwrap()), Some((unit, part)));
        }
        assert_eq!(parse_commit("000001-00000.json#1"), None);
        assert_eq!(parse_commit("notes.json"), None);
    }

    #[test]
    fn manifest_names_parse_back_and_segments_are_none() {
        for generation in [0, 12, 123_456_789_012] {
            let name = manifest(generation);
            assert_eq!(parse_manifest(name.strip_prefix("manifests/").unwrap()), Some(generation));
        }
        for name in ["0000000001-0123456789abcdef.parquet", "1.json", "0000000001.json#3", "+000000001.json"] {
            assert_eq!(parse_manifest(name), None, "{name}");
        }
    }

    #[test]
    fn register_entries_parse_back() {
        for number in [1, 7, 12_345_678] {
            let name = register_entry(number);
            assert_eq!(parse_register_entry(name.strip_prefix("columns/").unwrap()), Some(number));
        }
        assert_eq!(parse_register_entry("dataset.json"), None);
    }

    #[test]
    fn attempts_have_names_of_their_own() {
        assert_eq!(shard(3, 1, None), "shards/000003-00001.parquet");
        assert_eq!(shard(3, 1, Some("w7")), "shards/000003-00001-w7.parquet");
    }
}
