#!/usr/bin/python3
"""The manifests of deploy/kubernetes, as kustomize renders them, against the models of the Kubernetes API (python3-kubernetes, which is generated from
the API's own OpenAPI description: Kubernetes 1.22): every field exists there, has the right type, and required ones are set. And what the schema
cannot say: selectors find their pods, ports and volumes have partners, configurations are good ones.

  manifests.py SOURCE_DIRECTORY BIN_DIRECTORY
Not the system's Python 3 of a virtual environment: Debian's package is for /usr/bin/python3.
"""
import copy
import re
import subprocess
import sys
import tempfile

try:
    import yaml
    from kubernetes.client import Configuration, models
except ImportError as error:
    print(f"needs python3-kubernetes and python3-yaml: {error}")
    sys.exit(77)

PREFIX = {"v1": "V1", "apps/v1": "V1", "rbac.authorization.k8s.io/v1": "V1", "networking.k8s.io/v1": "V1"}
PLAIN = {"str": str, "int": int, "bool": bool, "float": (int, float), "object": object}
# Newer than these models; all of them exist in 1.25 and later. Empty: none is used.
NEWER = set()
RENAMED = {"V1ResourceRequirements.requests": "dict(str, str)", "V1ResourceRequirements.limits": "dict(str, str)"}


class Bad(Exception):
    pass


def check_value(kind, value, path):
    if kind.startswith("list["):
        if not isinstance(value, list):
            raise Bad(f"{path}: is no list")
        for i, item in enumerate(value):
            check_value(kind[5:-1], item, f"{path}[{i}]")
    elif kind.startswith("dict("):
        if not isinstance(value, dict):
            raise Bad(f"{path}: is no map")
        for key, item in value.items():
            check_value(kind[5:-1].split(",", 1)[1].strip(), item, f"{path}.{key}")
    elif kind in PLAIN:
        good = isinstance(value, PLAIN[kind]) and not (kind in ("int", "float") and isinstance(value, bool))
        # IntOrString is an object in the models; quantities are strings that YAML may take for numbers.
        if not good:
            raise Bad(f"{path}: {value!r} is no {kind}")
    elif kind == "datetime":
        pass
    else:
        check_model(kind, value, path)


def check_model(kind, value, path):
    model = getattr(models, kind, None)
    if model is None:
        raise Bad(f"{path}: the API has no {kind}")
    if not isinstance(value, dict):
        raise Bad(f"{path}: is no {kind}")
    names = {wire: name for name, wire in model.attribute_map.items()}
    arguments = {}
    for wire, item in value.items():
        if f"{kind}.{wire}" in NEWER:
            continue
        if wire not in names:
            raise Bad(f"{path}: {kind} has no field {wire}")
        if item is None:
            raise Bad(f"{path}.{wire}: is empty")
        check_value(RENAMED.get(f"{kind}.{names[wire]}", model.openapi_types[names[wire]]), item, f"{path}.{wire}")
        arguments[names[wire]] = item
    configuration = Configuration()
    configuration.client_side_validation = True
    try:
        # The setters refuse what is required and missing, and values outside of an enumeration.
        model(**arguments, local_vars_configuration=configuration)
    except ValueError as error:
        raise Bad(f"{path}: {kind}: {error}") from error


def check_schema(document):
    path = f"{document.get('kind')}/{document.get('metadata', {}).get('name')}"
    prefix = PREFIX.get(document.get("apiVersion"))
    if prefix is None:
        raise Bad(f"{path}: unexpected apiVersion {document.get('apiVersion')}")
    check_model(prefix + document["kind"], document, path)


def check_workload(document, documents):
    path = f"{document['kind']}/{document['metadata']['name']}"
    spec, pod = document["spec"], document["spec"]["template"]["spec"]
    labels = document["spec"]["template"]["metadata"]["labels"]
    for key, value in spec["selector"]["matchLabels"].items():
        if labels.get(key) != value:
            raise Bad(f"{path}: its selector does not find its own pods")
    accounts = {d["metadata"]["name"] for d in documents if d["kind"] == "ServiceAccount"}
    if pod["serviceAccountName"] not in accounts:
        raise Bad(f"{path}: there is no ServiceAccount {pod['serviceAccountName']}")
    if pod.get("automountServiceAccountToken") is not False:
        raise Bad(f"{path}: its pods get a token that they do not need")
    volumes = {v["name"] for v in pod.get("volumes", [])} | {v["metadata"]["name"] for v in spec.get("volumeClaimTemplates", [])}
    mounted = set()
    for container in pod["containers"]:
        if not container.get("livenessProbe"):
            raise Bad(f"{path}: {container['name']} has no liveness probe")
        if "memory" not in container["resources"].get("limits", {}):
            raise Bad(f"{path}: {container['name']} has no limit of memory")
        ports = {p["name"] for p in container.get("ports", [])}
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            port = container.get(probe, {}).get("httpGet", {}).get("port")
            if isinstance(port, str) and port not in ports:
                raise Bad(f"{path}: {probe}: there is no port {port}")
        for mount in container.get("volumeMounts", []):
            mounted.add(mount["name"])
            if mount.get("mountPropagation") == "Bidirectional" and not container["securityContext"].get("privileged"):
                raise Bad(f"{path}: Bidirectional propagation needs a privileged container")
    if mounted != volumes:
        raise Bad(f"{path}: volumes {sorted(volumes)}, mounted {sorted(mounted)}")


def check_services(documents):
    for service in (d for d in documents if d["kind"] == "Service"):
        pods = [d for d in documents if "template" in d.get("spec", {}) and
                service["spec"]["selector"].items() <= d["spec"]["template"]["metadata"]["labels"].items()]
        ports = {p["name"] for d in pods for c in d["spec"]["template"]["spec"]["containers"] for p in c.get("ports", [])}
        for port in service["spec"]["ports"]:
            if port["targetPort"] not in ports:
                raise Bad(f"Service/{service['metadata']['name']}: no pod has a port {port['targetPort']}")


def check_configurations(documents, bin_directory):
    """The daemons themselves read them."""
    for document in (d for d in documents if d["kind"] == "ConfigMap"):
        for name, text in document["data"].items():
            with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
                file.write(text)
                file.flush()
                run = subprocess.run([f"{bin_directory}/banyan-{name.removesuffix('.toml')}", "--config", file.name, "--check"],
                                     stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
                if run.returncode != 0:
                    raise Bad(f"ConfigMap/{document['metadata']['name']}: {name}: {run.stdout.strip()}")


def check(documents, bin_directory):
    for document in documents:
        check_schema(document)
        if "template" in document.get("spec", {}):
            check_workload(document, documents)
    check_services(documents)
    check_configurations(documents, bin_directory)


def must_fail(documents, bin_directory, what, change):
    broken = copy.deepcopy(documents)
    change({f"{d['kind']}/{re.sub('-[0-9a-z]{10}$', '', d['metadata']['name'])}": d for d in broken})
    try:
        check(broken, bin_directory)
    except Bad:
        return
    sys.exit(f"goes unnoticed: {what}")


def main():
    source, bin_directory = sys.argv[1:3]
    rendered = subprocess.run(["kubectl", "kustomize", f"{source}/deploy/kubernetes"], stdout=subprocess.PIPE, check=True, text=True).stdout
    documents = [d for d in yaml.safe_load_all(rendered) if d]
    if len(documents) < 15:
        sys.exit(f"only {len(documents)} objects")
    try:
        check(documents, bin_directory)
    except Bad as error:
        sys.exit(str(error))

    def container(d):
        return d["spec"]["template"]["spec"]["containers"][0]

    for what, change in {
            "a misspelt field": lambda d: container(d["DaemonSet/banyan-agent"]).update(volumeMount=[]),
            "a number for a string": lambda d: container(d["DaemonSet/banyan-agent"])["command"].append(7),
            "a missing required field": lambda d: container(d["DaemonSet/banyan-agent"]).pop("name"),
            "a selector without pods": lambda d: d["DaemonSet/banyan-agent"]["spec"]["selector"]["matchLabels"].update(x="y"),
            "propagation without privileges": lambda d: container(d["DaemonSet/banyan-agent"])["securityContext"].update(privileged=False),
            "a service without port": lambda d: d["Service/banyan-proxy"]["spec"]["ports"][0].update(targetPort="none"),
            "a configuration with an unknown key": lambda d: d["ConfigMap/banyan-manager"]["data"].update({"tree-manager.toml": "x = 1\n"}),
    }.items():
        must_fail(documents, bin_directory, what, change)
    print(f"{len(documents)} objects are well")


main()
