"""Load the manifests of a command and merge its options into the Cluster document."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from importlib import resources
from pathlib import Path

from msgspec import Struct, structs

from kubenetlab.api.config import ClusterConfig, Networking, mode_and_options
from kubenetlab.api.config_versions import convert
from kubenetlab.api.json_types import JsonMapping, JsonObject
from kubenetlab.api.manifests.load import LoadedManifests, ManifestObject, load, load_documents
from kubenetlab.api.meta import Resource
from kubenetlab.api.text.decode import Finding
from kubenetlab.api.text.documents import Document, read_documents
from kubenetlab.cli.input.mode_options import parse_mode
from kubenetlab.datapath.checks.objects import check_object
from kubenetlab.datapath.mode_files import content_of
from kubenetlab.datapath.modes import FAMILIES, file_options, known, policy_engine, policy_engines
from kubenetlab.datapath.short_names import expand_short_name
from kubenetlab.errors import ManifestError, Problem, UsageError, error_text
from kubenetlab.lab.paths import LAB_API

QUICKSTART = "quickstart"
COMMAND_LINE = "<command line>"
"""File name in messages about a Cluster document made from options."""
_ENGINE_PATH = "networking.policyEngine"


class Manifests(Struct, frozen=True):
    """Manifests of one command: the Cluster document, if there is one, and all other objects."""

    config: ManifestObject | None
    entries: tuple[ManifestObject, ...]
    loaded: LoadedManifests
    is_quickstart: bool = False
    kept_engine: str = ""
    """Policy engine of the running lab that a new CNI mode keeps, although its default differs."""

    @property
    def cluster_config(self) -> ClusterConfig:
        return (
            self.config.object
            if self.config is not None and isinstance(self.config.object, ClusterConfig)
            else ClusterConfig()
        )

    @property
    def count_of_pods(self) -> int:
        """Estimated number of pods: the sum of the workloads' replicas."""
        return sum(
            getattr(getattr(entry.object, "spec", None), "replicas", 0) for entry in self.entries
        )

    @property
    def all_entries(self) -> tuple[ManifestObject, ...]:
        return (self.config, *self.entries) if self.config is not None else self.entries


class Flags(Struct, frozen=True):
    """Options that change the Cluster document. None or False: the option is not given."""

    cni: str | None = None
    proxy: str | None = None
    nodes: int | None = None
    real_commands: bool = False
    drift: str | None = None
    uplink: bool | None = None
    ip_family: str | None = None
    policy: str | None = None

    @property
    def are_given(self) -> bool:
        """True if at least one option is given."""
        return self != Flags()

    @property
    def networking(self) -> JsonObject:
        """Fields that the options set in `networking`."""
        fields: JsonObject = {}
        if self.cni is not None:
            fields |= {"cni": _mode("cni", self.cni), "disableDefaultCNI": False}
        if self.proxy is not None:
            fields |= {"kubeProxyMode": _mode("proxy", self.proxy)}
        if self.policy is not None:
            fields |= {"policyEngine": _mode("policy", self.policy)}
        if self.ip_family is not None:
            fields |= {"ipFamily": self.ip_family}
        return fields

    @property
    def top_level(self) -> JsonObject:
        """Fields that the options set at the top level of the document."""
        fields = {
            "realCommands": self.real_commands or None,
            "drift": self.drift,
            "uplink": self.uplink,
        }
        return {name: value for name, value in fields.items() if value is not None}


def _mode(family: str, text: str) -> JsonObject:
    """Return a mode of the command line as in a Cluster document."""
    return _with_files(family, expand_short_name(family, parse_mode(text)))


def _with_files(family: str, mode: JsonObject) -> JsonObject:
    """Return a mode of the command line with the contents of the files that its options name.

    Raises UsageError if a file cannot be read, and ManifestError for mistakes in it.
    """
    for option, content in file_options(family, str(mode["type"])).items():
        path = mode.pop(option, None)
        if path is not None:
            try:
                data = Path(str(path)).read_bytes()
            except OSError as error:
                flag = FAMILIES[family].flag
                raise UsageError(
                    f"{flag} {mode['type']},{option}={path}: {error_text(error)}"
                ) from None
            mode[content] = content_of(family, str(mode["type"]), content, str(path), data)
    return mode


def read(
    files: Sequence[str] | None,
    *,
    strict: bool = False,
    flags: Flags = Flags(),
    with_quickstart: bool = False,
    base: JsonMapping | None = None,
    for_new_lab: bool = False,
    lab: str | None = None,
) -> Manifests:
    """Return the manifests of a command, with its options merged into the Cluster document.

    with_quickstart: load the built-in quickstart if no files are given.
    base: Cluster document of a running lab; the options change it if the files contain none.
    for_new_lab: also report what admission would reject in a new lab.
    lab: value of --lab; it replaces the name in the Cluster document.
    Raises ManifestError.
    """
    loaded = _load(
        files, flags, strict=strict, with_quickstart=with_quickstart, for_new_lab=for_new_lab
    )
    return merge_options(loaded, flags, base, lab, is_quickstart=not files and with_quickstart)


def _load(
    files: Sequence[str] | None,
    flags: Flags,
    *,
    strict: bool,
    with_quickstart: bool,
    for_new_lab: bool,
) -> LoadedManifests:
    """Return the objects of files, of the quickstart, or none. Raises ManifestError."""
    if files:
        return load_files(
            files, strict=strict, options_follow=flags.are_given, for_new_lab=for_new_lab
        )
    if not with_quickstart:
        return LoadedManifests(())
    data = resources.files("kubenetlab").joinpath("quickstart.yaml").read_bytes()
    documents, problems = read_documents("quickstart.yaml", data)
    return load_documents(documents, problems, strict=strict, check=check_object)


def load_files(
    files: Sequence[str],
    *,
    strict: bool = False,
    options_follow: bool = False,
    for_new_lab: bool = False,
) -> LoadedManifests:
    """Return the objects of files, which are read once.

    options_follow: leave the modes of the Cluster document to `merge_options`.
    for_new_lab: as in `read`. Raises ManifestError.
    """
    from kubenetlab.cli.input.kustomize import Kustomization, build

    try:
        documents, problems = build([file for file in files if isinstance(file, Kustomization)])
        return load(
            [file for file in files if not isinstance(file, Kustomization)],
            strict=strict,
            check=_check_without_modes if options_follow else check_object,
            documents=documents,
            problems=problems,
        )
    except ManifestError as error:
        raise _with_admission(error) if for_new_lab else error from None


def merge_options(
    loaded: LoadedManifests,
    flags: Flags,
    base: JsonMapping | None,
    lab: str | None,
    *,
    is_quickstart: bool = False,
) -> Manifests:
    """Return loaded manifests, with options merged into the Cluster document; see `read`."""
    config = next(
        (entry for entry in loaded.entries if isinstance(entry.object, ClusterConfig)), None
    )
    entries = tuple(
        entry
        for entry in loaded.entries
        if entry is not config and not isinstance(entry.object, ClusterConfig)
    )
    kept_engine = ""
    if flags.are_given:
        is_of_lab = config is None and base is not None and flags.policy is None
        merged = _with_flags(config, base, flags)
        (config,) = merged.entries
        known = {(problem.path, problem.message) for problem in loaded.warnings}
        new = [each for each in merged.warnings if (each.path, each.message) not in known]
        loaded = structs.replace(loaded, warnings=(*loaded.warnings, *new))
        if is_of_lab and base is not None and isinstance(config.object, ClusterConfig):
            kept_engine = _kept_engine(base, config.object.networking)
    if lab is not None and config is not None:
        config = _named(config, lab)
    return Manifests(config, entries, loaded, is_quickstart=is_quickstart, kept_engine=kept_engine)


def _kept_engine(base: JsonMapping, networking: Networking) -> str:
    """Return the selected policy engine of a lab with a new CNI mode; empty for a default one.

    base: former Cluster document.
    """
    former, _ = mode_and_options((base.get("networking") or {}).get("cni", "bridge"))
    default = policy_engines(networking)[0]
    engine, _ = policy_engine(networking)
    return engine if networking.cni_mode[0] != former and engine != default else ""


def load_for_lab(
    lab: str | None,
    files: Sequence[str] | None,
    flags: Flags,
    *,
    strict: bool,
) -> tuple[str, Manifests]:
    """Return the name of the lab that `up` or `plan` works on, and its manifests.

    Without files, the manifests are those of the quickstart, unless another running lab is named.
    Options without files change only the Cluster document of a running lab: the one named with
    --lab, or the only one that is up. Raises LabError if several labs are up and none is named.
    """
    from kubenetlab.lab import rundir
    from kubenetlab.lab.client import only_running

    if lab is not None:
        rundir.run_directory(lab)  # reject an invalid name before reading any file
    is_up = lab is not None and rundir.is_alive(lab)
    if (
        not files
        and flags.are_given
        and (lab is None or is_up)
        and (running_lab := lab or only_running()) is not None
    ):
        return running_lab, read(None, strict=strict, base=_document_of(running_lab), flags=flags)
    with_quickstart = not files and (lab in (None, QUICKSTART) or not is_up)
    loaded = _load(files, flags, strict=strict, with_quickstart=with_quickstart, for_new_lab=True)
    name = lab or _name_in(loaded) or (QUICKSTART if with_quickstart else "lab")
    base = None
    if flags.are_given and rundir.is_alive(name):
        base = _document_of(name)
        loaded = LoadedManifests(()) if with_quickstart else loaded
    return name, merge_options(loaded, flags, base, lab, is_quickstart=with_quickstart)


def _name_in(loaded: LoadedManifests) -> str:
    """Return the name of the lab in the Cluster document; empty if there is none."""
    configs = (entry.object for entry in loaded.entries)
    return next((obj.name for obj in configs if isinstance(obj, ClusterConfig)), "")


def _document_of(lab: str) -> JsonObject:
    """Return the Cluster document of a running lab."""
    from kubenetlab.lab.client import Client

    (current,) = Client(lab).get(f"{LAB_API}/clusters")["items"]
    return {key: value for key, value in current.items() if key != "metadata"}


def _with_admission(error: ManifestError) -> ManifestError:
    """Add the problems that admission to a new lab finds in the valid objects of a failed load."""
    from kubenetlab.lab.bootstrap import bootstrap_store

    config = next((entry for entry in error.valid if isinstance(entry.object, ClusterConfig)), None)
    if config is None and any(
        problem.object.startswith(f"{ClusterConfig.kind} ") for problem in error.problems
    ):
        return error  # admission needs the address ranges of a valid Cluster document
    try:
        bootstrap_store(
            config,
            [entry for entry in error.valid if not isinstance(entry.object, ClusterConfig)],
            0.0,
        )
    except ManifestError as admission_error:
        return ManifestError((*error.problems, *admission_error.problems))
    return error


def _named(config: ManifestObject, lab: str) -> ManifestObject:
    """Return the Cluster document with another name."""
    assert isinstance(config.object, ClusterConfig)
    obj = structs.replace(config.object, metadata=structs.replace(config.object.metadata, name=lab))
    return structs.replace(config, value={**config.value, "name": lab}, object=obj)


def _check_without_modes(obj: Resource) -> Iterator[Finding]:
    """Yield the problems of an object in a file; options may replace modes of the cluster."""
    return iter(()) if isinstance(obj, ClusterConfig) else check_object(obj)


def _with_flags(
    config: ManifestObject | None, base: JsonMapping | None, flags: Flags
) -> LoadedManifests:
    """Return a Cluster document with options applied, in the current version of the API.

    --nodes keeps the first nodes of the document: it appends workers or removes the last nodes.
    config: Cluster document of a file, which takes the place of `base`.
    Raises ManifestError; problems that the file has, too, have its name and their line.
    """
    default = {"apiVersion": ClusterConfig.api_version, "kind": ClusterConfig.kind}
    value = dict(convert((config.value if config is not None else base) or default))
    merged = {
        **value,
        **flags.top_level,
        "networking": {**(value.get("networking") or {}), **flags.networking},
    }
    if flags.nodes is not None:
        known = list(value.get("nodes") or [{"role": "control-plane"}])
        merged["nodes"] = [
            *known[: flags.nodes],
            *[{"role": "worker"}] * (flags.nodes - len(known)),
        ]
    try:
        loaded = load_documents([Document(COMMAND_LINE, 0, "", merged)], check=check_object)
    except ManifestError as error:
        problems = [
            _with_option(problem, merged["networking"], config)
            if problem.path == _ENGINE_PATH and flags.policy is None and flags.cni is not None
            else problem
            for problem in error.problems
        ]
        raise ManifestError(_located(problems, config), error.valid) from None
    return structs.replace(loaded, warnings=tuple(_located(loaded.warnings, config)))


def _with_option(
    problem: Problem, networking: JsonMapping, config: ManifestObject | None
) -> Problem:
    """Return the problem of a policy engine that does not fit --cni, with the option to add.

    networking: the merged document's. The engine is that of a file or of the running lab.
    """
    engine, _ = mode_and_options(networking["policyEngine"])
    cni, _ = mode_and_options(networking["cni"])
    if engine not in known("policy") or cni not in known("cni"):
        return problem
    fitting = policy_engines(Networking(cni=networking["cni"]))
    enforcing = next((each for each in fitting if each != "none"), "none")
    hint = f"add `--policy {enforcing}` to `--cni {cni}`"
    if config is None:
        hint = f"{engine} was selected before: {hint}"
        return structs.replace(problem, file=f"--cni {cni}", hints=(*problem.hints, hint))
    place = config.problem(Finding(("networking", "policyEngine"), ""))
    return structs.replace(problem, file=place.file, line=place.line, hints=(*problem.hints, hint))


def _located(problems: Iterable[Problem], config: ManifestObject | None) -> Iterator[Problem]:
    """Yield problems of a merged document, with the place of those that its file has, too."""
    own: dict[tuple[str, str], Problem] = {}
    if config is not None and config.object is not None:
        found = map(config.problem, check_object(config.object))
        own = {(problem.path, problem.message): problem for problem in found}
    for problem in problems:
        yield own.get((problem.path, problem.message), problem)
