//! What is installed beside the program: completions, manual pages, and the Debian package.

use std::path::Path;
use std::process::Command;

use crate::support::*;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What a command printed, which must have succeeded.
fn said(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn shells_complete_commands_and_options() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("harvestd.bash");
    std::fs::write(&script, said(Command::new(BINARY).args(["completions", "bash"]))).unwrap();
    let complete = |words: &str| {
        let ask = format!(
            "source {}; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); COMP_LINE='{words}'; \
             COMP_POINT=${{#COMP_LINE}}; _harvestd harvestd \"${{COMP_WORDS[-1]}}\" \"${{COMP_WORDS[-2]}}\"; echo ${{COMPREPLY[@]}}",
            script.display()
        );
        said(Command::new("bash").args(["--norc", "-c", &ask]))
    };
    assert_eq!(complete("harvestd serv").trim(), "serve");
    assert_eq!(complete("harvestd serve --protect").trim(), "--protect-reads");
    for (shell, sign) in [("zsh", "#compdef harvestd"), ("fish", "complete -c harvestd"), ("powershell", "harvestd")] {
        assert!(said(Command::new(BINARY).args(["completions", shell])).contains(sign), "{shell}");
    }
}

#[test]
fn every_command_has_a_manual_page() {
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("man1");
    said(Command::new(BINARY).arg("man").arg(&pages));
    let help = said(Command::new(BINARY).arg("--help"));
    let commands = help.split("Commands:").nth(1).unwrap().split("Options:").next().unwrap();
    let commands = commands.lines().filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next());
    let commands: Vec<&str> = commands.filter(|command| *command != "help").collect();
    assert!(commands.contains(&"serve") && commands.contains(&"man"), "{commands:?}");
    for command in commands {
        let page = std::fs::read_to_string(pages.join(format!("harvestd-{command}.1"))).unwrap();
        assert!(page.contains(".TH ") && page.contains(".SH OPTIONS"), "{command}");
    }
    assert!(std::fs::read_to_string(pages.join("harvestd.1")).unwrap().contains("harvestd\\-serve(1)"));
    let refused = Command::new(BINARY).args(["man", "/proc/no/such/place"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(69));
}

/// What the package holds: `[from, to, mode]` of Cargo.toml.
fn assets() -> Vec<[String; 3]> {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let list = manifest.split("assets = [").nth(1).unwrap().split("\n]").next().unwrap();
    let asset = |line: &str| {
        let mut words = line.split('"').skip(1).step_by(2).map(str::to_owned);
        Some([words.next()?, words.next()?, words.next()?])
    };
    list.lines().filter_map(asset).collect()
}

#[test]
fn the_debian_package_is_made_of_what_is_there() {
    let assets = assets();
    let goes_to = |place: &str| assets.iter().any(|[_, to, _]| to == place);
    assert!(goes_to("usr/bin/") && goes_to("usr/lib/sysusers.d/harvestd.conf") && goes_to("usr/share/man/man1/"));
    let build = std::fs::read_to_string(root().join("deploy/debian/build.sh")).unwrap();
    for [from, to, mode] in &assets {
        // secrets may be in there
        assert_eq!(
            mode,
            if to.ends_with("harvestd.env") {
                "640"
            } else if from.ends_with("/harvestd") {
                "755"
            } else {
                "644"
            }
        );
        match from.strip_prefix("target/release/") {
            Some("harvestd") => {}
            Some(made) => {
                let name = made.strip_prefix("deb-files/").unwrap().split('/').next().unwrap();
                assert!(build.contains(&format!("$files/{name}\"")), "nobody makes {from}");
            }
            None => assert!(root().join(from.trim_end_matches("*.md")).exists(), "{from}"),
        }
    }
    for script in ["build.sh", "postinst", "postrm"] {
        said(Command::new("sh").arg("-n").arg(root().join("deploy/debian").join(script)));
    }
    // the unit runs what is installed, as the user that is made, with the settings that are installed
    let unit = std::fs::read_to_string(root().join("deploy/systemd/harvestd.service")).unwrap();
    let user = std::fs::read_to_string(root().join("deploy/systemd/harvestd.sysusers")).unwrap();
    assert!(
        unit.contains("ExecStart=/usr/bin/harvestd ")
            && unit.contains("User=harvestd\n")
            && user.contains("u harvestd ")
    );
    assert!(unit.contains("EnvironmentFile=-/etc/harvestd/harvestd.env") && goes_to("etc/harvestd/harvestd.env"));
    // where cargo-deb is installed, it takes all this
    let found = Command::new("cargo").args(["deb", "--version"]).output().is_ok_and(|output| output.status.success());
    if !found {
        eprintln!("SKIPPED: cargo-deb is not installed; the package was not built");
        return;
    }
    package_with_cargo_deb();
}

fn package_with_cargo_deb() {
    let folder = tempfile::tempdir().unwrap();
    // beside the real one, which other tests use
    let copy = folder.path().join("source");
    for [from, ..] in assets() {
        if let Some(made) = from.strip_prefix("target/release/") {
            let place = folder.path().join("target/release").join(made.replace("/*", "/harvestd.1.gz"));
            std::fs::create_dir_all(place.parent().unwrap()).unwrap();
            std::fs::write(place, "stands in").unwrap();
        }
    }
    for item in ["Cargo.toml", "Cargo.lock", "LICENSE-APACHE", "README.md", "deploy", "docs", "src", "benches", "tests"]
    {
        std::fs::create_dir_all(&copy).unwrap();
        std::os::unix::fs::symlink(root().join(item), copy.join(item)).unwrap();
    }
    let package = folder.path().join("harvestd.deb");
    said(
        Command::new("cargo")
            .args(["deb", "--no-build", "--no-strip", "--offline", "--output"])
            .arg(&package)
            .env("CARGO_TARGET_DIR", folder.path().join("target"))
            .current_dir(&copy),
    );
    let held = said(Command::new("dpkg-deb").arg("--contents").arg(&package));
    for place in [
        "./usr/bin/harvestd",
        "./etc/harvestd/harvestd.env",
        "./etc/harvestd/pipelines/README",
        "./usr/lib/sysusers.d/harvestd.conf",
        "./usr/lib/systemd/system/harvestd.service",
        "./usr/share/man/man1/harvestd.1.gz",
        "./usr/share/bash-completion/completions/harvestd",
        "./usr/share/doc/harvestd/operations.md",
    ] {
        assert!(held.lines().any(|line| line.ends_with(place)), "{place}: {held}");
    }
    let control = said(Command::new("dpkg-deb").arg("--info").arg(&package));
    assert!(control.contains("conffiles") && control.contains("postinst"), "{control}");
    assert!(
        said(Command::new("dpkg-deb").args(["--info", package.to_str().unwrap(), "conffiles"]))
            .contains("/etc/harvestd/harvestd.env")
    );
    let scripts = said(Command::new("dpkg-deb").args(["--info", package.to_str().unwrap(), "postinst"]));
    assert!(scripts.contains("systemd-sysusers") && !scripts.contains("#DEBHELPER#"), "{scripts}");
}
