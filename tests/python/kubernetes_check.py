"""Judge rendered manifests by the schemas of Kubernetes; resources of operators, which it does not know, are left out."""

import sys

import kubernetes_validate
import yaml

checked = 0
with open(sys.argv[1]) as file:
    for manifest in yaml.safe_load_all(file):
        if manifest["apiVersion"].startswith("monitoring.coreos.com/"):
            continue
        kubernetes_validate.validate(manifest, "1.32", strict=True)
        checked += 1
print(f"{checked} objects fit")
