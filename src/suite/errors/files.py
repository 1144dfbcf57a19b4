"""Files of models on their way: from the Hugging Face Hub, or from node to node."""

from __future__ import annotations

from suite.errors.base import SuiteError


class HubRepositoryNotFound(SuiteError):
    """The Hugging Face Hub has no such repository, or it is private: check the name, or set HF_TOKEN."""

    code = "hub_repository_not_found"
    status = 404


class HubModelNotFound(SuiteError):
    """The repository has no such GGUF file: the message lists those that it has."""

    code = "hub_model_not_found"
    status = 404


class HubChoiceUnclear(SuiteError):
    """The repository has several models: name one of those that the message lists."""

    code = "hub_choice_unclear"
    status = 400


class HubAccessDenied(SuiteError):
    """The Hugging Face Hub refuses access: accept the terms of the repository, and set HF_TOKEN."""

    code = "hub_access_denied"
    status = 403


class HubUnreachable(SuiteError):
    """The Hugging Face Hub cannot be reached: check the network and HF_ENDPOINT, then try again."""

    code = "hub_unreachable"
    status = 503


class DigestMismatch(SuiteError):
    """What has come is not what it should be, and was removed: pull or push it again."""

    code = "digest_mismatch"
    status = 422


class DiskFull(SuiteError):
    """There is no space left on the disk: make room, then try again; it goes on where it stopped."""

    code = "disk_full"
    status = 507


class PullRunning(SuiteError):
    """Another process is downloading this file: wait for it."""

    code = "pull_running"
    status = 409


class FileNameTaken(SuiteError):
    """Another file has the name that the model's file would get, and stays: rename or remove it first."""

    code = "file_name_taken"
    status = 409


class StoreFull(SuiteError):
    """The object store that files travel through is full: wait until other transfers have ended."""

    code = "store_full"
    status = 507
