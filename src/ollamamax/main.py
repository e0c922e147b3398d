"""The composition root: the only module that names adapters. Builds a node, runs it, takes it down in order."""

import asyncio
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.resources import as_file, files
from pathlib import Path
from typing import Final

import psutil
import structlog

from ollamamax import __version__
from ollamamax.adapters.engines.connector import Connector
from ollamamax.adapters.engines.llamacpp import LlamaCppLauncher
from ollamamax.adapters.identity.anonymous import AnonymousVerifier
from ollamamax.adapters.state.engine_book import FileEngineBook
from ollamamax.adapters.storage.builtin_model import BuiltinModel
from ollamamax.adapters.storage.locks import DirectoryLock
from ollamamax.adapters.storage.ollama_store import OllamaStore
from ollamamax.adapters.system.clock import SystemClock, SystemDice
from ollamamax.adapters.system.machine import SystemMachine
from ollamamax.adapters.telemetry.logs import LogAudit, configure
from ollamamax.adapters.telemetry.metrics import PrometheusMeter
from ollamamax.adapters.telemetry.tracing import TracingMeter
from ollamamax.api.app import create_app
from ollamamax.api.ports import ApiConfig
from ollamamax.api.readiness import NodeReadiness, Phase
from ollamamax.api.server import new_event_loop, serve
from ollamamax.core.errors import OllamaMaxError, StoreReadOnly
from ollamamax.ports import Meter
from ollamamax.settings import Loaded, Settings
