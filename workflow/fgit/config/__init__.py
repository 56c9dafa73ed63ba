"""What a config says: a file for each section, every key with its type, default and a sentence.

The same classes give the stages' command-line flags (:mod:`fgit.flags`) and the rules' parameters,
so that a key of the config, a flag and a field are one word. Unknown keys are refused.
"""

# ruff: noqa: F401 - what the other rooms import from here

from fgit.config.base import Location, Settings, at_home, locations
from fgit.config.benchmarks import AUDITED, KEPT_OUT, WITH_PLUS, Benchmark, BenchmarkKind
from fgit.config.datasets import Dataset, Turns, misfit
from fgit.config.decontaminate import DecontaminateSettings
from fgit.config.evaluate import EvaluateSettings
from fgit.config.experiment import Config
from fgit.config.generate import GenerateSettings
from fgit.config.launch import LAUNCHERS, Launch, Pythons
from fgit.config.messages import every_subclass, validation_message
from fgit.config.models import Mode, Model
from fgit.config.mutate import MutateSettings
from fgit.config.plan import Estimate, Pilot, PlanSettings
from fgit.config.reading import check_text, check_yaml, parse_config, read_config
from fgit.config.score import SandboxChoice, ScoreSettings
from fgit.config.select import SelectSettings
from fgit.config.tables import BASE, PUBLISHED, Claim, Figure, Row, Table
from fgit.config.train import WEIGHT_ONE, Precision, TrainSettings, given_to_pairs
