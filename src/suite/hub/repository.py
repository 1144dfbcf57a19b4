"""A repository of the hub, through the library huggingface_hub. Everything here blocks.

HF_TOKEN and HF_ENDPOINT are honoured, as by every program that uses the library; the token is never printed.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedWriter

import httpx2
from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get
from huggingface_hub.utils._headers import build_hf_headers
from huggingface_hub.utils.tqdm import disable_progress_bars

from suite.errors import (
    DiskFull,
    HubAccessDenied,
    HubModelNotFound,
    HubRepositoryNotFound,
    HubUnreachable,
    InvalidConfiguration,
    InvalidRequest,
)
from suite.hub.offers import HubFile

LIBRARY = "model-manager-suite"
ANSWER_SECONDS = 30.0

_FULL = (errno.ENOSPC, errno.EDQUOT)
_DENIED = (401, 403)


class Repository:
    """A repository at a revision, whose files can be listed and downloaded."""

    def __init__(self, name: str, revision: str | None = None) -> None:
        self.name = name
        self._revision = revision
        # Read now and not by the library, which reads it when it is imported.
        self._endpoint = os.environ.get("HF_ENDPOINT", constants.ENDPOINT).rstrip("/")
        # The library's own lines have addresses of files, which may be signed.
        logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
        disable_progress_bars()

    def files(self) -> list[HubFile]:
        """List the files with sizes and digests, and stay at the revision that has them.

        Raises HubRepositoryNotFound, HubAccessDenied, HubUnreachable, InvalidRequest and
        InvalidConfiguration.
        """
        with self._errors():
            info = HfApi(endpoint=self._endpoint, library_name=LIBRARY).model_info(
                self.name, revision=self._revision, files_metadata=True, timeout=ANSWER_SECONDS
            )
        self._revision = info.sha or self._revision
        return [
            HubFile(
                path=each.rfilename,
                bytes=each.lfs.size if each.lfs else each.size or 0,
                sha256=each.lfs.sha256 if each.lfs else None,
            )
            for each in info.siblings or ()
        ]

    def append(self, file: HubFile, part: BufferedWriter) -> None:
        """Download what the part of a file does not have yet. A lost connection is tried again a few times.

        It goes by plain HTTP, which can go on where it was interrupted. Raises as `files` does, and DiskFull.
        """
        if file.bytes > constants.MAX_HTTP_DOWNLOAD_SIZE:
            raise HubUnreachable(
                f"{file.path} is over 50 GB, which the hub does not send in one piece: "
                f"use `hf download {self.name} {file.path}`, and serve the folder of its cache"
            )
        url = hf_hub_url(self.name, file.path, revision=self._revision, endpoint=self._endpoint)
        with self._errors():
            http_get(
                url,
                part,
                resume_size=part.tell(),
                headers=build_hf_headers(library_name=LIBRARY),
                expected_size=file.bytes,
            )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn the library's errors into ours, whose messages have no address and no header."""
        try:
            yield
        except GatedRepoError:
            raise HubAccessDenied(
                f"{self.name} is gated: accept its terms at {self._endpoint}/{self.name}, "
                "then set HF_TOKEN to a token of your account"
            ) from None
        except RevisionNotFoundError:
            raise HubRepositoryNotFound(f"{self.name} has no revision {self._revision!r}") from None
        except RepositoryNotFoundError:
            raise HubRepositoryNotFound(
                f"the hub has no repository {self.name}, or it is private: check the name, or set HF_TOKEN"
            ) from None
        except EntryNotFoundError:
            raise HubModelNotFound(f"{self.name} no longer has this file: try again") from None
        except HFValidationError as error:
            raise InvalidRequest(f"{self.name!r} is no name of a repository: {error}") from None
        except OfflineModeIsEnabled:
            raise HubUnreachable("HF_HUB_OFFLINE forbids downloads: unset it") from None
        except HfHubHTTPError as error:
            raise self._refused(error.response.status_code) from None
        except httpx2.HTTPError as error:
            raise HubUnreachable(
                f"{self._endpoint} cannot be reached ({type(error).__name__}): check the network and "
                "HF_ENDPOINT, then type the same again; what is here is not downloaded again"
            ) from None
        except UnicodeEncodeError:  # the value is in the library's error, and a token is never printed
            raise InvalidConfiguration(
                "HF_TOKEN, or the token that `hf auth login` stored, has characters that no token has: "
                "copy it again"
            ) from None
        except OSError as error:
            if error.errno in _FULL:
                raise DiskFull from None
            if error.errno is None:  # the library's own, for a body of another length
                raise HubUnreachable("the hub sent less than the file has: type the same again") from None
            raise

    def _refused(self, status: int) -> HubAccessDenied | HubUnreachable:
        if status in _DENIED:
            return HubAccessDenied(
                f"the hub refuses {self.name} ({status}): check HF_TOKEN and its permissions"
            )
        return HubUnreachable(f"the hub answered {status}: try again later")
