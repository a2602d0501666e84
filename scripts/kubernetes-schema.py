"""Prints the table of Kubernetes' kinds that agent/core/src/kubernetes/schema.rs reads and describes.

Arguments: the folders of k8s.io/kubernetes, the oldest release first. The OpenAPI documents have fields, types and
what must be there; the words that a field may be are in the generated Go alone.
"""

import glob
import json
import re
import sys

META = "io.k8s.apimachinery.pkg."
CRD = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1."
PRIMITIVE = {
    META + "api.resource.Quantity": "q",
    META + "util.intstr.IntOrString": "x",
    META + "apis.meta.v1.Time": "s",
    META + "apis.meta.v1.MicroTime": "s",
}
# Kinds that nobody keeps, and those of lists.
NOT_KEPT = re.compile(
    r".*(List|Review)|Binding|Scale|Eviction|TokenRequest|ComponentStatus|WatchEvent|DeleteOptions|Status"
    r"|APIGroup|APIVersions"
)
# The document says that these must be there, and the server does without: it has a default, or none is a value.
NOT_REQUIRED = {
    ("io.k8s.api.core.v1.HTTPHeader", "value"),
    ("io.k8s.api.core.v1.Sysctl", "value"),
    ("io.k8s.api.core.v1.LimitRangeSpec", "limits"),
    ("io.k8s.api.core.v1.ISCSIVolumeSource", "lun"),
    ("io.k8s.api.core.v1.ISCSIPersistentVolumeSource", "lun"),
    ("io.k8s.api.core.v1.PreferredSchedulingTerm", "preference"),
    ("io.k8s.api.core.v1.SleepAction", "seconds"),
    ("io.k8s.api.rbac.v1.RoleRef", "apiGroup"),
    ("io.k8s.api.scheduling.v1.PriorityClass", "value"),
    ("io.k8s.api.apps.v1.ControllerRevision", "revision"),
    ("io.k8s.api.discovery.v1.EndpointSlice", "endpoints"),
    ("io.k8s.api.apps.v1.StatefulSetSpec", "serviceName"),
    ("io.k8s.api.core.v1.Event", "involvedObject"),
    (CRD + "CustomResourceDefinitionVersion", "served"),
    (CRD + "CustomResourceDefinitionVersion", "storage"),
}


def words(folder):
    """The words that fields may be, by function and field."""
    found, function, field = {}, None, None
    with open(folder + "/pkg/generated/openapi/zz_generated.openapi.go") as source:
        for line in source:
            if match := re.match(r"func schema_(\w+)\(", line):
                function, field = match[1], None
            elif match := re.match(r'^\t{5}"([^"]+)": \{$', line):
                field = match[1]
            elif (match := re.search(r"Enum:\s+\[\]interface\{\}\{(.*)\},", line)) and field:
                found[function, field] = json.loads(f"[{match[1]}]")
    return found


class Types:
    """Every type that was met, and what its fields are in all releases."""

    def __init__(self):
        self.fields = {}
        self.kinds = {}

    def read(self, folder):
        enums = words(folder)
        for path in sorted(glob.glob(folder + "/api/openapi-spec/v3/*_openapi.json")):
            with open(path) as document:
                schemas = json.load(document).get("components", {}).get("schemas", {})
            for name, schema in schemas.items():
                self.schema(name, schema, enums)

    def schema(self, name, schema, enums):
        function = "k8sio_" + re.sub(r"\W", "_", name.removeprefix("io.k8s."))
        properties, required = schema.get("properties", {}), set(schema.get("required", []))
        known = self.fields.setdefault(name, {})
        for field, what in properties.items():
            is_a = type_of(what, enums.get((function, field)))
            must = field in required and (name, field) not in NOT_REQUIRED
            if field in known:
                before, must_before = known[field]
                if before[0] == is_a[0] == "words":
                    is_a = ("words", sorted(set(before[1]) | set(is_a[1])))
                must = must and must_before
            known[field] = (is_a, must)
        for field in known.keys() - properties.keys():
            known[field] = (known[field][0], False)
        for kind in schema.get("x-kubernetes-group-version-kind", []):
            self.kinds[kind["group"], kind["version"], kind["kind"]] = name


def type_of(what, enum):
    if reference := what.get("$ref") or what.get("allOf", [{}])[0].get("$ref"):
        name = reference.rsplit("/", 1)[-1]
        return (PRIMITIVE[name],) if name in PRIMITIVE else ("record", name)
    if what.get("format") == "int-or-string":
        return ("x",)
    match what.get("type"):
        case "array":
            return ("list", type_of(what["items"], enum))
        case "object" if "additionalProperties" in what:
            return ("map", type_of(what["additionalProperties"], enum))
        case "string" if enum:
            return ("words", enum)
        case "string":
            return ("B",) if what.get("format") == "byte" else ("s",)
        case "integer" | "number" | "boolean" as name:
            return (name[0],)
    return ("*",)


def main():
    types = Types()
    for folder in sys.argv[1:]:
        types.read(folder)
    kinds = sorted(
        (f"{group}/{version}" if group else version, kind, name, version)
        for (group, version, kind), name in types.kinds.items()
        if not NOT_KEPT.fullmatch(kind) and group != "internal.apiserver.k8s.io"
    )
    # What is not on by default isn't looked into.
    stable = [kind for kind in kinds if re.fullmatch(r"v\d+", kind[3])]
    other = [kind for kind in kinds if kind not in stable]
    numbers, order = {}, []

    def number(name):
        if name not in numbers:
            numbers[name] = len(order)
            order.append(name)
        return numbers[name]

    def written(is_a):
        match is_a:
            case ("list", of):
                return "[" + written(of)
            case ("map", of):
                return "{" + written(of)
            case ("words", texts):
                return "|" + "|".join(texts)
            case ("record", name) if types.fields[name] and not name.endswith(".ManagedFieldsEntry"):
                return f"#{number(name)}"
            case ("record", _):
                return "*"
        return is_a[0]

    lines = [f"{version} {kind} {number(name)}" for version, kind, name, _ in stable]
    lines += [f"{version} {kind}" for version, kind, *_ in other]
    print("\n".join(lines))
    whole = {name for *_, name, _ in stable}
    for name in order:  # It grows meanwhile.
        print()
        for field, (is_a, must) in sorted(types.fields[name].items()):
            # What the server writes is nobody's wish.
            shown = "*" if field == "status" and name in whole else written(is_a)
            print(f"{field}{'!' if must else ''} {shown}")


main()
