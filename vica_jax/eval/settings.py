"""Every choice behind a run of a benchmark."""

from dataclasses import dataclass, field

from vica_jax.data.threads import num_readers
from vica_jax.decode.settings import AnswerSettings
from vica_jax.errors import InputError
from vica_jax.eval.frames import FrameSelection
from vica_jax.eval.prompts import PROFILES


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """How a benchmark is run.

    The first part decides the answers and stands in the recipe:

    * ``profile``: which prompt (``eval.prompts``);
    * ``frames``: which frames of a video;
    * ``answers``: decoding, token ratio, time instruction; its prompt style and its
      frame settings are overruled by the two above;
    * ``black_frames``: every frame is black, as many and as large as the video's own
      (they are chosen as usual before): what is answered is answered from the text;
    * ``thinking``: the answer stands in the text's final segment;
    * ``exact``: score options and numbers exactly, beside the free text.

    The rest decides only how the work is done: at most ``batch`` questions at a time,
    ``threads`` that read videos, at most ``ahead`` of them waiting (both by default
    half the cores, 2 to 8), and which shard (i, n) of the videos is this process's.
    ``point_maps`` is for frames by coverage. ``frame_cache`` is a folder of at most
    ``frame_cache_gb`` where videos' pixels are kept for other runs, of frames chosen
    uniformly or at a rate.
    """

    profile: str = "vica_readme"
    frames: FrameSelection = field(default_factory=FrameSelection)
    answers: AnswerSettings = field(default_factory=AnswerSettings)
    black_frames: bool = False
    thinking: bool = False
    exact: bool = True
    batch: int = 32
    threads: int = field(default_factory=num_readers)
    ahead: int = field(default_factory=num_readers)
    frame_cache: str | None = None
    frame_cache_gb: float = 50.0
    shard: tuple[int, int] = (0, 1)
    point_maps: str | None = None

    def __post_init__(self):
        if self.profile not in PROFILES:
            raise InputError(
                f"no prompt profile {self.profile!r}: choose {', '.join(PROFILES)}"
            )
        for name in ("batch", "threads", "ahead"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be >= 1, got {getattr(self, name)}")
        if self.frames.needs_point_map and self.point_maps is None:
            raise InputError(
                "frames by coverage need --point_maps=DIR with <dataset>/<scene>.npz"
            )
        if self.frame_cache is not None and not self.frames.is_by_time:
            raise InputError(
                "--frame_cache keeps frames chosen uniformly or at a rate: leave it "
                f"out with --frames={self.frames.kind}"
            )
        index, count = self.shard
        if not 0 <= index < count:
            raise InputError(f"shard {index}/{count}: give i/n with 0 <= i < n")
