"""Look into a cache with huggingface_hub, or fill it: hub_cache.py find|download REPO COMMIT (see tests/hub/python.rs)."""

import os
import sys

from huggingface_hub import hf_hub_download, scan_cache_dir, snapshot_download, try_to_load_from_cache

verb, repo, commit = sys.argv[1:]
files = ["config.json", "tokenizer.json", "model.safetensors"]

if verb == "find":
    folder = snapshot_download(repo, revision="main", local_files_only=True)
    assert os.path.basename(folder) == commit, folder
    assert sorted(os.listdir(folder)) == sorted(files), os.listdir(folder)
    for file in files:
        found = try_to_load_from_cache(repo, file, revision="main")
        assert found == os.path.join(folder, file), found
        assert hf_hub_download(repo, file, revision=commit) == found
    # known to be absent is not the same as unknown
    absent = try_to_load_from_cache(repo, "chat_template.jinja", revision=commit)
    assert absent is not None and not isinstance(absent, str), absent
    report = scan_cache_dir()
    assert not report.warnings, report.warnings
    (entry,) = report.repos
    (revision,) = entry.revisions
    assert (entry.repo_id, revision.commit_hash, set(revision.refs)) == (repo, commit, {"main"}), entry
else:
    hf_hub_download(repo, "config.json", revision="main")
    snapshot_download(repo, revision="main", allow_patterns=files)
