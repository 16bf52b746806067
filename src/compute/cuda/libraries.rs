//! Where the CUDA toolkit's libraries are: beside the driver, in a toolkit's folder, or in Python's packages.
//!
//! They are opened by their full path, so that no variable has to be set for the loader.

use std::error::Error as _;
use std::path::{Path, PathBuf};

use libloading::Library;

/// Folders that are searched, in this order, before the loader's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Libraries {
    folders: Vec<PathBuf>,
}

/// Where toolkits and driver mounts are on common systems.
const USUAL: [&str; 4] =
    ["/usr/local/cuda/lib64", "/usr/local/nvidia/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/lib64"];
/// Where pip puts them below `site-packages`.
const PACKAGES: [&str; 4] =
    ["nvidia/cu13/lib", "nvidia/cuda_nvrtc/lib", "nvidia/cublas/lib", "nvidia/cuda_runtime/lib"];

impl Libraries {
    /// The folders given, then those of a toolkit's home, of a Python environment, and the usual ones.
    pub fn new(folders: Vec<PathBuf>, toolkit: Option<&Path>, python: Option<&Path>) -> Self {
        let mut all = folders;
        all.extend(toolkit.map(|home| home.join("lib64")));
        for packages in python.map(site_packages).unwrap_or_default() {
            all.extend(PACKAGES.iter().map(|folder| packages.join(folder)));
        }
        all.extend(USUAL.map(PathBuf::from));
        Self { folders: all }
    }

    /// The folders, in the order they are searched.
    pub fn folders(&self) -> &[PathBuf] {
        &self.folders
    }

    /// The files `lib{name}.so.N` of the first folder that has any, the newest first.
    pub fn find(&self, name: &str) -> Vec<PathBuf> {
        let prefix = format!("lib{name}.so");
        for folder in &self.folders {
            // a folder that cannot be listed has nothing for us
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
            let mut found: Vec<_> =
                entries.map(|e| e.path()).filter(|path| version_of(path, &prefix).is_some()).collect();
            if !found.is_empty() {
                found.sort_by_key(|path| std::cmp::Reverse(version_of(path, &prefix)));
                return found;
            }
        }
        Vec::new()
    }

    /// Open `lib{name}`, from the folders or where the loader finds it: the library and its path, or what was tried.
    ///
    /// It stays open to the end of the process: CUDA's libraries leave threads and handlers behind.
    #[allow(unsafe_code)]
    pub(super) fn open(&self, name: &str) -> Result<(&'static Library, PathBuf), String> {
        let mut candidates = self.find(name);
        candidates.extend(["so.13", "so.12", "so"].map(|end| PathBuf::from(format!("lib{name}.{end}"))));
        let mut reason = String::new();
        for path in candidates {
            // SAFETY: loading runs the initialisers of an NVIDIA library, which have no preconditions.
            match unsafe { Library::new(&path) } {
                Ok(library) => return Ok((Box::leak(Box::new(library)), path)),
                Err(e) if reason.is_empty() => reason = why(&e),
                Err(_) => {}
            }
        }
        Err(reason)
    }
}

/// What the system said of a library that it did not load: it names the file.
pub(super) fn why(error: &libloading::Error) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

/// `[12, 4]` of `libx.so.12.4` after `libx.so`; nothing for other names.
fn version_of(path: &Path, prefix: &str) -> Option<Vec<u32>> {
    let rest = path.file_name()?.to_str()?.strip_prefix(prefix)?;
    let numbers = rest.split('.').skip(1).map(|part| part.parse().ok());
    (rest.is_empty() || rest.starts_with('.')).then(|| numbers.collect()).flatten()
}

/// The folders of packages of a Python environment.
fn site_packages(environment: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(environment.join("lib")).into_iter().flatten().flatten();
    let is_python = |path: &PathBuf| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("python3"));
    entries.map(|e| e.path()).filter(is_python).map(|path| path.join("site-packages")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_the_first_folder_is_found() {
        let root = tempfile::tempdir().unwrap();
        let (first, second) = (root.path().join("a"), root.path().join("b"));
        for (folder, names) in [
            (&first, vec!["libnvrtc-builtins.so.13.0"]),
            (&second, vec!["libx.so.9", "libx.so.12.4", "libx.so", "libx.so.old", "libxy.so.13"]),
        ] {
            std::fs::create_dir(folder).unwrap();
            names.iter().for_each(|name| std::fs::write(folder.join(name), "").unwrap());
        }
        let libraries = Libraries::new(vec![root.path().join("none"), first, second.clone()], None, None);
        assert_eq!(libraries.find("x"), ["libx.so.12.4", "libx.so.9", "libx.so"].map(|name| second.join(name)));
        assert!(libraries.find("nvrtc").is_empty(), "another library's name begins alike");
    }

    #[test]
    fn packages_of_an_environment_are_searched() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("lib/python3.11/site-packages/nvidia/cuda_nvrtc/lib");
        std::fs::create_dir_all(&folder).unwrap();
        let libraries = Libraries::new(Vec::new(), Some(Path::new("/opt/toolkit")), Some(root.path()));
        assert_eq!(libraries.folders()[0], Path::new("/opt/toolkit/lib64"));
        assert!(libraries.folders().contains(&folder));
    }

    #[test]
    fn a_file_that_is_no_library_is_a_reason() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("libharvestd_none.so.1"), "not a library").unwrap();
        let libraries = Libraries::new(vec![root.path().to_owned()], None, None);
        assert!(libraries.open("harvestd_none").unwrap_err().contains("libharvestd_none.so.1"));
    }
}
