"""Where things are: the project's folder, the shipped configs, an experiment by its name."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path

from batchling.errors import ConfigError
from batchling.shipped import shipped_conf as shipped_conf

PRIMARY = "config.yaml"


@dataclass(frozen=True, slots=True)
class Project:
    """The folder that holds `conf/`, `experiments/` and `runs/`.

    Attributes:
        root: the folder found by walking up; the start itself when nothing was found.
        conf: the project's own config groups; None without a `conf/` folder.
        experiments: where bare experiment names are looked up; need not exist.
        runs: where plans are written: env BATCHLING_RUNS, else `paths.runs` of the project's `conf/base.yaml`, else `runs`.
        found: whether walking up found a project.
    """

    root: Path
    conf: Path | None
    experiments: Path
    runs: Path
    found: bool = True


@dataclass(frozen=True, slots=True)
class ExperimentFile:
    """An experiment's primary config. Relative paths in it start at `folder`."""

    path: Path

    @property
    def folder(self) -> Path:
        return self.path.parent

    @property
    def config_name(self) -> str:
        return self.path.stem

    @property
    def name(self) -> str:
        """What a person would call it: the folder's name, or the file's without its ending."""
        return self.folder.name if self.path.name == PRIMARY else self.path.stem


def _is_project(folder: Path) -> bool:
    # `conf` and `experiments` are common names: only a folder with YAML in the right place counts.
    conf, experiments = folder / "conf", folder / "experiments"
    try:
        return (
            any(conf.glob("*.yaml"))
            or any(conf.glob("*/*.yaml"))
            or any(experiments.glob("*.yaml"))
            or any(experiments.glob(f"*/{PRIMARY}"))
        )
    except OSError:
        return False


def find_project(start: Path | str | None = None) -> Project:
    """The project that `start` (default: the working directory) is in; `start` itself when there is none."""
    here = Path(start) if start is not None else Path.cwd()
    here = here.absolute()
    if here.is_file():
        here = here.parent
    root = next((folder for folder in (here, *here.parents) if _is_project(folder)), None)
    found = root is not None
    root = root or here
    conf = root / "conf"
    return Project(
        root=root,
        conf=conf if conf.is_dir() else None,
        experiments=root / "experiments",
        runs=_runs(root, conf / "base.yaml"),
        found=found,
    )


def project_of(experiment: str | os.PathLike[str], start: Path | str | None = None) -> Project:
    """The project that an experiment runs in: that of `start`, or of the working directory.

    Where neither is in one, an experiment named by its path brings its own.
    """
    project = find_project(start)
    path = Path(experiment).expanduser()
    if start is not None or project.found or not (path.exists() or path.with_name(path.name + ".yaml").exists()):
        return project
    own = find_project(path if path.exists() else path.parent)
    return own if own.found else project


def _runs(root: Path, base: Path) -> Path:
    if from_env := os.environ.get("BATCHLING_RUNS"):
        return Path(from_env).expanduser().absolute()
    runs = "runs"
    if base.is_file():
        import yaml  # only here: `batchling status` starts faster without it

        from batchling.config import door

        try:
            document = door.load(base)
        except (yaml.YAMLError, OSError, UnicodeDecodeError):
            document = None  # composing says what is wrong with it
        if isinstance(document, dict) and isinstance(paths := document.get("paths"), dict):
            runs = str(paths.get("runs") or runs)
    return (root / runs).absolute()


def experiment_names(project: Project) -> list[str]:
    """Bare names that `locate` understands."""
    folder = project.experiments
    if not folder.is_dir():
        return []
    names = {path.parent.name for path in folder.glob(f"*/{PRIMARY}")}
    names |= {path.stem for path in folder.glob("*.yaml")}
    return sorted(names)


def locate(experiment: str | os.PathLike[str], project: Project | None = None) -> ExperimentFile:
    """The primary config of a folder with a config.yaml, a .yaml file, or a bare name in `experiments/`.

    Raises:
        ConfigError: there is no such experiment; the message lists near names.
    """
    project = project or find_project()
    text = os.fspath(experiment)
    given = Path(text).expanduser()
    candidates = [given, project.experiments / given]
    if len(given.parts) > 1:
        candidates.append(project.root / given)
    for candidate in candidates:
        if candidate.is_dir() and (candidate / PRIMARY).is_file():
            return ExperimentFile((candidate / PRIMARY).absolute())
        if candidate.is_file() and candidate.suffix == ".yaml":
            return ExperimentFile(candidate.absolute())
        with_suffix = candidate.with_name(candidate.name + ".yaml") if candidate.name else candidate
        if with_suffix.is_file():
            return ExperimentFile(with_suffix.absolute())
    raise ConfigError(
        _not_found(text, given, project), next_command="batchling init, or name a folder with a config.yaml"
    )


def _not_found(text: str, given: Path, project: Project) -> str:
    if given.is_dir():
        return f"{text} is a folder without a {PRIMARY}"
    if given.suffix == ".yml":
        return f"{text}: configs end in .yaml (Hydra does not read .yml)"
    if given.is_file():
        return f"{text} is not a .yaml file"
    names = experiment_names(project)
    message = f"no experiment {text!r}: no folder with a {PRIMARY}, no .yaml file and no name in {project.experiments}"
    near = difflib.get_close_matches(given.name, names, n=3, cutoff=0.6)
    if near:
        message += f"; did you mean {' or '.join(near)}?"
    elif names:
        message += f"; there are: {', '.join(names[:12])}{', …' if len(names) > 12 else ''}"
    return message


def search_path(experiment: ExperimentFile, project: Project, config_dir: Path | None = None) -> list[tuple[str, Path]]:
    """Folders with config groups, the first one wins: `config_dir`, the experiment's, the project's `conf/`, the shipped ones.

    Raises:
        ConfigError: `config_dir` is not a folder.
    """
    folders: list[tuple[str, Path]] = []
    if config_dir is not None:
        if not config_dir.is_dir():
            raise ConfigError(f"--config-dir {config_dir} is not a folder")
        folders.append(("config-dir", config_dir.absolute()))
    folders.append(("experiment", experiment.folder))
    conf, shipped = project.conf, shipped_conf()
    if not project.found or not experiment.path.is_relative_to(project.root):
        conf = find_project(experiment.folder).conf or conf
    if conf is not None and not conf.samefile(shipped):
        folders.append(("project", conf))
    return [*folders, ("shipped", shipped)]
