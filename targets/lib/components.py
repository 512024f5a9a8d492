"""What the commands of a board are built of, as CycloneDX 1.5 (https://cyclonedx.org/docs/1.5/json).

In: a board and what was built for it. Out: a document of the crates in the commands, each with its version, licence, source and the
digest that Cargo.lock has. Build scripts, macros and what only they use are not in the commands, so it leaves them out. It leaves out
Rust's standard library too, which the commands contain. It has no date, so that equal builds give equal bytes. Refused: a crate without a licence.
"""

import json
import tomllib

from lib.shell import ROOT, Failure, run
from lib.toolchain import features

NAME = "components.cdx.json"


def components(board, commands, slim=False, tls=False):
    """The document, as text."""
    workspace = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]
    digests = {(package["name"], package["version"]): package.get("checksum")
               for package in tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]}
    packages = [word for command in commands for word in ("--package", command)]
    listed = run("cargo", "tree", "--locked", "--edges", "normal,no-proc-macro", "--prefix", "none", "--no-dedupe", "--target", board.triple,
                 "--format", "{p}\t{l}\t{r}", *packages, *features(slim, tls, packages=commands), capture=True)
    crates = sorted({tuple(line.split("\t")) for line in listed.splitlines() if line})
    document = {
        "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
        "metadata": {"component": {"type": "application", "name": "edge-run", "version": workspace["version"],
                                   "licenses": [{"expression": workspace["license"]}]}},
        "components": [component(*crate, digests) for crate in crates],
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def component(package, licence, repository, digests):
    """One crate; `package` is as cargo prints it: a name, v and a version, and of the workspace's own the directory."""
    name, version = package.split()[:2]
    version = version.removeprefix("v")
    if not licence:
        raise Failure(f"{name}: expected a licence in its Cargo.toml, found none")
    crate = {"type": "library", "name": name, "version": version,
             # Older crates separate licences by a slash.
             "licenses": [{"expression": licence.replace("/", " OR ")}]}
    # The workspace's own are on no registry.
    if digest := digests.get((name, version)):
        crate["purl"] = f"pkg:cargo/{name}@{version}"
        crate["hashes"] = [{"alg": "SHA-256", "content": digest}]
    if repository:
        crate["externalReferences"] = [{"type": "vcs", "url": repository}]
    return crate
