"""The environment of a run's processes: all that libraries read, and no secret of the shell."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from src import paths
from src.runs import environment
from src.runs.environment import child_environment, passes

# From the documentation of each library; values as their users set them.
DOCUMENTED = {
    "torch": """PYTORCH_CUDA_ALLOC_CONF PYTORCH_ALLOC_CONF PYTORCH_NO_CUDA_MEMORY_CACHING TORCH_HOME
        TORCH_LOGS TORCH_COMPILE_DEBUG TORCHINDUCTOR_CACHE_DIR TORCHINDUCTOR_FX_GRAPH_CACHE
        TORCH_NCCL_ASYNC_ERROR_HANDLING TORCH_DISTRIBUTED_DEBUG TORCH_SHOW_CPP_STACKTRACES
        TORCH_ALLOW_TF32_CUBLAS_OVERRIDE TORCH_CUDNN_V8_API_DISABLED OMP_NUM_THREADS MKL_NUM_THREADS
        OPENBLAS_NUM_THREADS NUMEXPR_NUM_THREADS KMP_AFFINITY KMP_BLOCKTIME GOMP_CPU_AFFINITY
        ATEN_CPU_CAPABILITY DNNL_VERBOSE ONEDNN_MAX_CPU_ISA""",
    "CUDA": """CUDA_HOME CUDA_PATH CUDA_VISIBLE_DEVICES CUDA_DEVICE_ORDER CUDA_LAUNCH_BLOCKING
        CUDA_CACHE_PATH CUDA_MODULE_LOADING CUBLAS_WORKSPACE_CONFIG CUBLASLT_WORKSPACE_SIZE
        NVIDIA_VISIBLE_DEVICES NVIDIA_TF32_OVERRIDE NVIDIA_DRIVER_CAPABILITIES CUDNN_LOGLEVEL_DBG
        LD_LIBRARY_PATH LD_PRELOAD LIBRARY_PATH CPATH C_INCLUDE_PATH CC CXX CFLAGS TRITON_CACHE_DIR
        TRITON_PTXAS_PATH BNB_CUDA_VERSION""",
    "NCCL": """NCCL_DEBUG NCCL_DEBUG_FILE NCCL_SOCKET_IFNAME NCCL_IB_DISABLE NCCL_IB_HCA
        NCCL_P2P_DISABLE NCCL_SHM_DISABLE NCCL_NVLS_ENABLE NCCL_TOPO_FILE NCCL_CONF_FILE
        GLOO_SOCKET_IFNAME""",
    "Hugging Face": """HF_HOME HF_HUB_CACHE HF_TOKEN HF_TOKEN_PATH HF_ENDPOINT HF_HUB_OFFLINE
        HF_HUB_DISABLE_IMPLICIT_TOKEN HF_HUB_ENABLE_HF_TRANSFER HF_HUB_DOWNLOAD_TIMEOUT
        HF_HUB_DISABLE_SYMLINKS_WARNING HF_XET_CACHE HF_DATASETS_CACHE HF_DATASETS_OFFLINE
        HUGGINGFACE_HUB_CACHE HUGGING_FACE_HUB_TOKEN HUGGINGFACE_CO_STAGING TRANSFORMERS_OFFLINE
        TRANSFORMERS_CACHE TRANSFORMERS_VERBOSITY DATASETS_VERBOSITY TOKENIZERS_PARALLELISM
        DISABLE_TELEMETRY SAFETENSORS_FAST_GPU UNSLOTH_COMPILE_DISABLE XDG_CACHE_HOME""",
    "proxies and TLS": """HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY http_proxy https_proxy all_proxy
        no_proxy SSL_CERT_FILE SSL_CERT_DIR REQUESTS_CA_BUNDLE CURL_CA_BUNDLE NODE_EXTRA_CA_CERTS
        SSLKEYLOGFILE NETRC""",
    "W&B": """WANDB_API_KEY WANDB_MODE WANDB_BASE_URL WANDB_DIR WANDB_CACHE_DIR WANDB_DATA_DIR
        WANDB_CONFIG_DIR WANDB_ENTITY WANDB_PROJECT WANDB_NOTES WANDB_SILENT WANDB_HTTP_TIMEOUT
        WANDB_IDENTITY_TOKEN_FILE WANDB_X_DISABLE_STATS TRACKIO_SERVER_URL TRACKIO_WRITE_TOKEN""",
    "Ray": "RAY_ADDRESS RAY_AUTH_MODE RAY_AUTH_TOKEN_PATH RAY_TLS_SERVER_KEY RAY_TMPDIR",
    "the system": """PATH HOME USER LOGNAME LANG LC_ALL LANGUAGE TZ TMPDIR PWD OLDPWD TERM COLUMNS
        PYTHONPATH PYTHONUNBUFFERED PYTHONHASHSEED PYTHONWARNINGS PYTHONFAULTHANDLER PYTHONUTF8
        VIRTUAL_ENV CONDA_PREFIX MALLOC_ARENA_MAX MALLOC_TRIM_THRESHOLD_ SLURM_JOB_ID XKB_KEYMAP
        SPELLTUNE_HOME SPELLTUNE_DATABASE_URL SPELLTUNE_THREADS""",
}
SECRETS = """AWS_SECRET_ACCESS_KEY AWS_ACCESS_KEY_ID AWS_SESSION_TOKEN AZURE_STORAGE_KEY
    AZURE_CLIENT_SECRET GOOGLE_APPLICATION_CREDENTIALS GITHUB_TOKEN GH_TOKEN GITLAB_TOKEN NPM_TOKEN
    OPENAI_API_KEY ANTHROPIC_API_KEY NGC_API_KEY NVIDIA_API_KEY COMET_API_KEY PGPASSWORD MYSQL_PWD
    DOCKER_PASSWORD SMTP_PASS DB_PASSWD GPG_PASSPHRASE DJANGO_SECRET STREAMLIT_SERVER_COOKIE_SECRET
    SSH_AUTH_SOCK SSH_AGENT_PID RAY_AUTH_TOKEN ACTIONS_ID_TOKEN_REQUEST_TOKEN AZURE_DEVOPS_EXT_PAT
    TWINE_PASSWORD SSHPASS DOCKER_AUTH_CONFIG REDISCLI_AUTH CI_JOB_JWT
    AZURE_STORAGE_CONNECTION_STRING my_api_key SPELLTUNE_TOKEN"""


@pytest.mark.parametrize("library", DOCUMENTED)
def test_what_a_library_documents_is_handed_on(library: str) -> None:
    assert [name for name in DOCUMENTED[library].split() if not passes(name, "1")] == []


def test_secrets_that_no_training_needs_are_kept_back() -> None:
    assert [name for name in SECRETS.split() if passes(name, "x")] == []


def test_an_address_with_a_password_is_handed_on_to_proxies_and_the_run_table_alone() -> None:
    address = "http://me:canary@host:3128"
    for name in ("https_proxy", "ALL_PROXY", "SPELLTUNE_DATABASE_URL", "HF_ENDPOINT"):
        assert passes(name, address)
    for name in ("DATABASE_URL", "PIP_INDEX_URL", "REDIS_URL", "CELERY_BROKER"):
        assert not passes(name, address)
        assert passes(name, "http://host:3128/a:b@c")


def test_a_run_is_one_process_whatever_launched_the_launcher(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    around = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "TORCHELASTIC_RUN_ID",
              "ACCELERATE_MIXED_PRECISION", "OMPI_COMM_WORLD_SIZE", "PMI_RANK",
              "WANDB_SERVICE")  # fmt: skip
    for name in around:
        monkeypatch.setenv(name, "2")
    monkeypatch.setenv("SPELLTUNE_TOKEN", "another's")
    found = child_environment(SPELLTUNE_TOKEN="own")
    assert found["SPELLTUNE_TOKEN"] == "own" and found["PATH"] == os.environ["PATH"]
    assert not set(around) & set(found)


def test_libraries_that_an_image_left_uncompiled_are_compiled_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "libraries" / "large_library.py"
    library.parent.mkdir()
    library.write_text("value = 1")
    monkeypatch.setenv("SPELLTUNE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.delenv("PYTHONPYCACHEPREFIX", raising=False)
    monkeypatch.syspath_prepend(library.parent)
    monkeypatch.setattr(environment, "LARGE_LIBRARY", "large_library")

    def compiled(folder: Path) -> bool:
        values = child_environment(PYTHONPATH=str(library.parent))
        subprocess.run([sys.executable, "-c", "import large_library"], env=values, check=True)
        return any(folder.rglob("large_library.*.pyc"))

    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda *_: False)  # as root can write everywhere
        assert compiled(paths.cache_dir() / "bytecode") and not compiled(library.parent)
    # Where the image brings compiled modules, or another place is asked for, nothing changes.
    assert compiled(library.parent)
    assert child_environment()["PYTHONDONTWRITEBYTECODE"] == "1"
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path / "asked"))
    assert child_environment()["PYTHONPYCACHEPREFIX"] == str(tmp_path / "asked")
