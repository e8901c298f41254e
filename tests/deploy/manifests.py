#!/usr/bin/python3
"""The manifests of deploy/kubernetes, as kustomize renders them, against the models of the Kubernetes API (python3-kubernetes, which is generated from
the API's own OpenAPI description: Kubernetes 1.22): every field exists there, has the right type, and required ones are set. And what the schema
cannot say: selectors of workloads, services and network policies find their pods; ports are those that the daemons listen on; volumes, accounts and
roles have partners; probes are there; configurations are good ones.

  manifests.py SOURCE_DIRECTORY BIN_DIRECTORY
Not the system's Python 3 of a virtual environment: Debian's package is for /usr/bin/python3.
"""
import copy
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib

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
# Asks and answers nobody.
WITHOUT_PROBES = {"banyan-preemption"}
# Where each daemon's configuration says what it listens on.
LISTENERS = {"peer-agent.toml": ("peer.address", "mirror.address", "metrics.address"), "registry-proxy.toml": ("listen", "status"),
             "tree-manager.toml": ("listen", "http")}
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
        check_probes(path, document["metadata"]["name"], container)
        if "memory" not in container["resources"].get("limits", {}):
            raise Bad(f"{path}: {container['name']} has no limit of memory")
        for mount in container.get("volumeMounts", []):
            mounted.add(mount["name"])
            if mount.get("mountPropagation") == "Bidirectional" and not container["securityContext"].get("privileged"):
                raise Bad(f"{path}: Bidirectional propagation needs a privileged container")
    if mounted != volumes:
        raise Bad(f"{path}: volumes {sorted(volumes)}, mounted {sorted(mounted)}")


def check_probes(path, name, container):
    """A port is asked over HTTP, what has none by a command."""
    if name in WITHOUT_PROBES:
        return
    ports = {key for p in container.get("ports", []) for key in (p["name"], p["containerPort"])}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe") if ports else ("livenessProbe", "readinessProbe"):
        if not container.get(probe):
            raise Bad(f"{path}: {container['name']} has no {probe}")
        if ports and container[probe].get("httpGet", {}).get("port") not in ports:
            raise Bad(f"{path}: {probe}: asks none of the ports {ports}")


def workloads(documents, labels=None):
    """Those whose pods have these labels."""
    return [d for d in documents if "template" in d.get("spec", {}) and
            (labels or {}).items() <= d["spec"]["template"]["metadata"]["labels"].items()]


def ports_of(found):
    return [p for d in found for c in d["spec"]["template"]["spec"]["containers"] for p in c.get("ports", [])]


def check_services(documents):
    for service in (d for d in documents if d["kind"] == "Service"):
        ports = {p["name"] for p in ports_of(workloads(documents, service["spec"]["selector"]))}
        for port in service["spec"]["ports"]:
            if port["targetPort"] not in ports:
                raise Bad(f"Service/{service['metadata']['name']}: no pod has a port {port['targetPort']}")


def check_addresses(documents):
    """Whatever is named as NAME.NAMESPACE.svc:PORT is a service here."""
    services = {f"{d['metadata']['name']}.{d['metadata']['namespace']}.svc:{p['port']}" for d in documents if d["kind"] == "Service" for p in d["spec"]["ports"]}
    for document in documents:
        for address in re.findall(r"[a-z-]+\.[a-z-]+\.svc:\d+", yaml.safe_dump(document)):
            if address not in services:
                raise Bad(f"{document['kind']}/{document['metadata']['name']}: there is no service {address}")


def check_policies(documents):
    policies = [d for d in documents if d["kind"] == "NetworkPolicy"]
    if not any(d["spec"]["podSelector"] == {} and "ingress" not in d["spec"] for d in policies):
        raise Bad("no policy denies what none allows")
    opened = {}
    for policy in policies:
        path, selector = f"NetworkPolicy/{policy['metadata']['name']}", policy["spec"]["podSelector"].get("matchLabels")
        if selector is None:
            continue
        pods = workloads(documents, selector)
        if not pods or any(d["spec"]["template"]["spec"].get("hostNetwork") for d in pods):
            raise Bad(f"{path}: is for pods that are not there, or on their node's network")
        for rule in policy["spec"]["ingress"]:
            for source in rule["from"]:
                if "podSelector" in source and "namespaceSelector" not in source and not workloads(documents, source["podSelector"]["matchLabels"]):
                    raise Bad(f"{path}: lets in pods that are not there: {source}")
            for port in rule["ports"]:
                for pod in pods:
                    if (port["port"], port["protocol"]) not in {(p["containerPort"], p["protocol"]) for p in ports_of([pod])}:
                        raise Bad(f"{path}: no port {port['port']} at {pod['metadata']['name']}")
                    opened.setdefault(pod["metadata"]["name"], set()).add(port["port"])
    for pod in (d for d in workloads(documents) if not d["spec"]["template"]["spec"].get("hostNetwork")):
        shut = {p["containerPort"] for p in ports_of([pod])} - opened.get(pod["metadata"]["name"], set())
        if shut:
            raise Bad(f"{pod['metadata']['name']}: no policy opens {sorted(shut)}")


def check_roles(documents):
    """Every role is bound, to an account that exists and can use it; every account is some pod's."""
    own = {d["metadata"]["name"]: d for d in documents if d["kind"] == "ServiceAccount"}
    roles = {d["metadata"]["name"] for d in documents if d["kind"] == "Role"}
    bound = set()
    for binding in (d for d in documents if d["kind"] == "RoleBinding"):
        path = f"RoleBinding/{binding['metadata']['name']}"
        if binding["roleRef"]["kind"] != "Role" or binding["roleRef"]["name"] not in roles:
            raise Bad(f"{path}: there is no {binding['roleRef']['kind']} {binding['roleRef']['name']}")
        bound.add(binding["roleRef"]["name"])
        for subject in binding["subjects"]:
            if subject["namespace"] != binding["metadata"]["namespace"]:
                continue  # others' account
            if subject["name"] not in own:
                raise Bad(f"{path}: there is no ServiceAccount {subject['name']}")
            if own[subject["name"]].get("automountServiceAccountToken") is False:
                raise Bad(f"{path}: pods of {subject['name']} get no token to use it with")
    if roles - bound:
        raise Bad(f"nobody has the roles {sorted(roles - bound)}")
    used = {d["spec"]["template"]["spec"]["serviceAccountName"] for d in workloads(documents)}
    if set(own) != used:
        raise Bad(f"accounts {sorted(own)}, used {sorted(used)}")


def check_listeners(documents):
    """The ports of a container are those that its daemon's configuration names."""
    for config in (d for d in documents if d["kind"] == "ConfigMap"):
        name, text = next(iter(config["data"].items()))
        listens = set()
        for key in LISTENERS[name]:
            value = tomllib.loads(text)
            for part in key.split("."):
                value = value[part]
            listens.add(int(value.rpartition(":")[2]))
        for pod in workloads(documents):
            if any(v.get("configMap", {}).get("name") == config["metadata"]["name"] for v in pod["spec"]["template"]["spec"]["volumes"]):
                ports = {p["containerPort"] for p in ports_of([pod])}
                if ports != listens:
                    raise Bad(f"{pod['metadata']['name']}: ports {sorted(ports)}, its daemon listens on {sorted(listens)}")


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
    check_addresses(documents)
    check_policies(documents)
    check_roles(documents)
    check_listeners(documents)
    if bin_directory:
        check_configurations(documents, bin_directory)


def must_fail(documents, what, wrong, change):
    broken = copy.deepcopy(documents)
    change({f"{d['kind']}/{re.sub('-[0-9a-z]{10}$', '', d['metadata']['name'])}": d for d in broken})
    try:
        check(broken, None)
    except Bad as error:
        if wrong in str(error):
            return
        sys.exit(f"{what}: {error}")
    sys.exit(f"goes unnoticed: {what}")


def render(directory):
    rendered = subprocess.run(["kubectl", "kustomize", directory], stdout=subprocess.PIPE, check=True, text=True).stdout
    return [d for d in yaml.safe_load_all(rendered) if d]


def with_preemption(source):
    """As the line of kustomization.yaml that is a comment says."""
    with tempfile.TemporaryDirectory() as directory:
        shutil.copytree(f"{source}/deploy/kubernetes", f"{directory}/kubernetes")
        path = f"{directory}/kubernetes/kustomization.yaml"
        with open(path, encoding="utf-8") as file:
            text = file.read()
        if text.count("\n# components: [preemption]\n") != 1:
            sys.exit("kustomization.yaml does not say how to drain spot nodes")
        with open(path, "w", encoding="utf-8") as file:
            file.write(text.replace("# components:", "components:"))
        return render(f"{directory}/kubernetes")


def main():
    source, bin_directory = sys.argv[1:3]
    documents, plain = with_preemption(source), render(f"{source}/deploy/kubernetes")
    added = [f"{d['kind']}/{d['metadata']['name']}" for d in documents if d not in plain]
    if len(plain) < 15 or added != ["DaemonSet/banyan-preemption"]:
        sys.exit(f"{len(plain)} objects, and {added} with preemption")
    try:
        check(plain, None)
        check(documents, bin_directory)
    except Bad as error:
        sys.exit(str(error))

    def container(d):
        return d["spec"]["template"]["spec"]["containers"][0]

    for what, (wrong, change) in {
            "a misspelt field": ("no field volumeMount", lambda d: container(d["DaemonSet/banyan-agent"]).update(volumeMount=[])),
            "a number for a string": ("is no str", lambda d: container(d["DaemonSet/banyan-agent"])["command"].append(7)),
            "a missing required field": ("must not be `None`", lambda d: container(d["DaemonSet/banyan-agent"]).pop("name")),
            "a selector without pods": ("its own pods", lambda d: d["DaemonSet/banyan-agent"]["spec"]["selector"]["matchLabels"].update(x="y")),
            "propagation without privileges": ("privileged container", lambda d: container(d["DaemonSet/banyan-agent"])["securityContext"].update(privileged=False)),
            "a service without port": ("has a port none", lambda d: d["Service/banyan-proxy"]["spec"]["ports"][0].update(targetPort="none")),
            "a port that nobody listens on": ("listens on", lambda d: container(d["DaemonSet/banyan-agent"])["ports"][2].update(containerPort=5067)),
            "a pod without a readiness probe": ("no readinessProbe", lambda d: container(d["DaemonSet/banyan-keeper"]).pop("readinessProbe")),
            "a probe of no port": ("asks none", lambda d: container(d["DaemonSet/banyan-agent"])["livenessProbe"]["httpGet"].update(port=5064)),
            "a manager at another service": ("no service", lambda d: d["Service/banyan-manager"]["metadata"].update(name="manager")),
            "a policy for no pods": ("is for pods that", lambda d: d["NetworkPolicy/banyan-proxy"]["spec"]["podSelector"].update(matchLabels={"x": "y"})),
            "a policy that lets in no pods": ("lets in pods", lambda d: d["NetworkPolicy/banyan-proxy"]["spec"]["ingress"][2]["from"][0].update(
                podSelector={"matchLabels": {"x": "y"}})),
            "a policy for another port": ("no port 5052", lambda d: d["NetworkPolicy/banyan-proxy"]["spec"]["ingress"][2]["ports"][0].update(port=5052)),
            "a port that no policy opens": ("opens [4651]", lambda d: d["NetworkPolicy/banyan-manager"]["spec"]["ingress"].pop()),
            "no denial": ("denies what none", lambda d: d["NetworkPolicy/default-deny"]["spec"].update(ingress=[{}])),
            "a role of nobody": ("no Role other", lambda d: d["RoleBinding/banyan-scraper"]["roleRef"].update(name="other")),
            "an account of no pod": ("used [", lambda d: d["StatefulSet/banyan-manager"]["spec"]["template"]["spec"].update(
                serviceAccountName="banyan-proxy")),
            "a role for pods without a token": ("get no token", lambda d: d["RoleBinding/banyan-scraper"]["subjects"][0].update(
                name="banyan-node", namespace="banyan-system")),
    }.items():
        must_fail(documents, what, wrong, change)
    documents[[d["kind"] for d in documents].index("ConfigMap")]["data"].update({"tree-manager.toml": "x = 1\n"})
    try:
        check_configurations(documents, bin_directory)
        sys.exit("goes unnoticed: a configuration with an unknown key")
    except Bad:
        pass
    print(f"{len(documents)} objects are well")


main()
