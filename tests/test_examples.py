"""The examples for clusters, as far as they can be checked without one."""

import re
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from jaxcnn import cli
from jaxcnn.config import files, schema

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
SCRIPTS = sorted([*EXAMPLES.glob("*.sh"), *EXAMPLES.glob("*.sbatch")])


def test_there_is_an_example_for_each_kind_of_cluster():
    names = {path.name for path in EXAMPLES.iterdir()}
    assert names == {"one-host.sh", "slurm.sbatch", "tpu-slice.sh", "jobset.yaml"}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_valid(path):
    subprocess.run(["bash", "-n", str(path)], check=True)
    shellcheck = Path(sys.executable).parent / "shellcheck"
    subprocess.run([str(shellcheck), str(path)], check=True)


@pytest.mark.parametrize("path", sorted(EXAMPLES.iterdir()), ids=lambda path: path.name)
def test_an_example_names_only_verbs_keys_and_configurations_that_exist(path):
    text = path.read_text()
    keys = re.findall(r"--(?:config\.)?(\w+\.[\w.]+)=", text)
    assert keys and set(keys) <= {key for key, _ in schema.walk()}
    configurations = re.findall(r"--config[ =](\w+)", text)
    assert configurations and set(configurations) <= set(files.names())
    verbs = re.findall(r"\bjaxcnn (\w+) [-\d]", text) + re.findall(r'"jaxcnn", "(\w+)"', text)
    assert verbs and set(verbs) <= set(cli.VERBS)


def documents():
    """What jobset.yaml holds, in order."""
    return list(yaml.safe_load_all((EXAMPLES / "jobset.yaml").read_text()))


def test_the_job_set_fits_the_schemas_of_kubernetes():
    for document in documents():
        if document["kind"] == "JobSet":  # An extension; what it makes jobs of has a schema.
            (job,) = document["spec"]["replicatedJobs"]
            document = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "train"}}
            document |= job["template"]
        latest = kubernetes_validate.latest_version()
        kubernetes_validate.validate(document, latest, strict=True)


def test_the_job_set_has_what_jax_looks_for():
    account, role, binding, job_set = documents()
    assert [d["kind"] for d in documents()] == ["ServiceAccount", "Role", "RoleBinding", "JobSet"]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert binding["subjects"][0]["name"] == account["metadata"]["name"]
    (job,) = job_set["spec"]["replicatedJobs"]
    job = job["template"]["spec"]
    # JAX takes the number of processes from `parallelism`, and needs indices.
    assert job["parallelism"] == job["completions"] > 1 and job["completionMode"] == "Indexed"
    pod = job["template"]["spec"]
    assert pod["serviceAccountName"] == account["metadata"]["name"]
    assert pod["restartPolicy"] == "Never"  # else a pod would come back alone
    mounted = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    needed = {(r, v) for rule in role["rules"] for r in rule["resources"] for v in rule["verbs"]}
    assert {("pods", "list"), ("jobs", "get"), ("services", "list")} <= needed
