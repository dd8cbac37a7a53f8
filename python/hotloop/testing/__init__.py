"""What tests of training code need: small problems, fakes, failures and comparisons."""

from hotloop.testing.crash_at import CrashAt, InjectedError
from hotloop.testing.difference import differences
from hotloop.testing.fake_checkpoints import FakeCheckpoints
from hotloop.testing.fake_clock import FakeClock
from hotloop.testing.fake_tracker import FakeTracker
from hotloop.testing.golden import golden
from hotloop.testing.nan_injector import NanInjector
from hotloop.testing.oom_injector import OomInjector
from hotloop.testing.quadratic_problem import QuadraticProblem
from hotloop.testing.ranks import RankError, run_ranks
from hotloop.testing.recording_callback import RecordingCallback
from hotloop.testing.resume import assert_resume_exact
from hotloop.testing.scripted_metric import ScriptedMetric
from hotloop.testing.state_roundtrip import assert_state_roundtrip
from hotloop.testing.tiny_model import TinyModel

__all__ = [
    "CrashAt",
    "FakeCheckpoints",
    "FakeClock",
    "FakeTracker",
    "InjectedError",
    "NanInjector",
    "OomInjector",
    "QuadraticProblem",
    "RankError",
    "RecordingCallback",
    "ScriptedMetric",
    "TinyModel",
    "assert_resume_exact",
    "assert_state_roundtrip",
    "differences",
    "golden",
    "run_ranks",
]
