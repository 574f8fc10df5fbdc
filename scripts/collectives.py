"""Bytes that devices exchange in a compiled program, read from its HLO text.

    text = jax.jit(f).lower(...).compile().as_text()
    for found in collectives(text): print(found.kind, found.times, found.moved)

Every collective counts as often as it runs: as often as the loops around it turn, whose
trip counts XLA writes on the loop (``known_trip_count``) or into its condition. *Moved*
are the bytes that one device has to receive at the least, by the ring algorithms: of n
devices that share a result, all-gather moves (n - 1) / n of it, reduce-scatter and
all-to-all (n - 1) / n of the operand, all-reduce twice that, a permutation the operand.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

# Bytes moved of each operand byte among n devices.
_MOVED = {
    "all-gather": lambda n: n - 1,
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "reduce-scatter": lambda n: (n - 1) / n,
    "all-to-all": lambda n: (n - 1) / n,
    "ragged-all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda n: 1,
    "collective-broadcast": lambda n: 1,
}
KINDS = tuple(_MOVED)
# ``f32[4,64]{1,0}``: the digits of a type's name are its bits.
_ARRAY = re.compile(r"([a-z]+\d*[a-z0-9]*)\[([\d,<=]*)\]")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = (.*)$")
_CALLED = re.compile(
    r"\b(calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.-]+)"
)
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_INTEGER = re.compile(r"[su]\d+\[\]\S*?\(\d+\)$")


class HloError(ValueError):
    """A text that is no HLO module, or an attribute of a form not known here."""


@dataclass(frozen=True, kw_only=True)
class Collective:
    """One collective of a program: ``times`` it runs, each on ``operand_bytes``.

    ``group`` devices share each exchange. ``counted`` is False where a loop around it
    does not say how often it turns; such a loop counts as one turn.
    """

    kind: str
    name: str
    operand_bytes: int  # on one device, of one run
    group: int
    times: int = 1
    counted: bool = True

    @property
    def moved(self) -> float:
        """Bytes that a device receives in all runs."""
        if self.group < 2:
            return 0.0
        return self.times * self.operand_bytes * _MOVED[self.kind](self.group)


@dataclass(kw_only=True)
class _Instruction:
    name: str
    type: str
    opcode: str
    operands: Sequence[str]
    rest: str  # attributes


@dataclass(kw_only=True)
class _Computation:
    instructions: list[_Instruction] = field(default_factory=list)


def collectives(text: str) -> list[Collective]:
    """Every collective that a module's entry computation reaches.

    Of a conditional's branches the one that moves most is counted.

    Raises:
      HloError: the text has no entry computation, or groups in an unknown form.
    """
    computations, entry = _parse(text)
    if entry is None:
        raise HloError("no entry computation: not the text of a compiled module")
    found = re.search(r"num_partitions=(\d+)", text[: text.index("\n") + 1])
    replicas = re.search(r"replica_count=(\d+)", text[: text.index("\n") + 1])
    devices = int(found[1] if found else 1) * int(replicas[1] if replicas else 1)
    return list(_reached(computations, entry, devices))


def moved_bytes(found: Sequence[Collective]) -> dict[str, float]:
    """Bytes moved by kind, those that occur, and their ``total``."""
    by_kind = {
        kind: sum(one.moved for one in found if one.kind == kind)
        for kind in KINDS
        if any(one.kind == kind for one in found)
    }
    return by_kind | {"total": sum(by_kind.values())}


# -------------------------------------------------------------------------- the graph
def _reached(
    computations: Mapping[str, _Computation], name: str, devices: int
) -> Iterator[Collective]:
    computation = computations[name]
    types = {x.name: x.type for x in computation.instructions}
    for one in computation.instructions:
        kind = one.opcode.removesuffix("-start")
        if kind in _MOVED and not one.opcode.endswith("-done"):
            yield Collective(
                kind=kind,
                name=one.name,
                operand_bytes=sum(type_bytes(types[x]) for x in one.operands),
                group=group_size(one.rest, devices),
            )
            continue
        called = dict(_CALLED.findall(one.rest))
        if one.opcode == "while":
            trips = _trips(computations, one, called["condition"])
            for inner in _reached(computations, called["body"], devices):
                yield replace(
                    inner,
                    times=inner.times * (1 if trips is None else trips),
                    counted=inner.counted and trips is not None,
                )
            continue
        branches = [x.strip().lstrip("%") for x in _branches(one.rest)]
        branches += [called[x] for x in called if x.endswith("e_computation")]
        if branches:
            sides = [list(_reached(computations, x, devices)) for x in branches]
            yield from max(sides, key=lambda side: sum(x.moved for x in side))
        for how in ("calls", "to_apply"):
            if called.get(how) in computations:
                yield from _reached(computations, called[how], devices)


def _branches(rest: str) -> list[str]:
    found = _BRANCHES.search(rest)
    return found[1].split(",") if found else []


def _trips(
    computations: Mapping[str, _Computation], loop: _Instruction, condition: str
) -> int | None:
    """Turns of a loop; None where neither the loop nor its condition says so.

    A condition with one integer constant is read as ``i < constant``, i from 0.
    """
    if found := _TRIPS.search(loop.rest):
        return int(found[1])
    inside = list(computations[condition].instructions)
    for one in computations[condition].instructions:
        if called := dict(_CALLED.findall(one.rest)).get("calls"):
            inside += computations[called].instructions
    constants = [one.rest for one in inside if _INTEGER.match(f"{one.type}{one.rest}")]
    compared = any("direction=LT" in one.rest for one in inside)
    return int(constants[0].strip("()")) if compared and len(constants) == 1 else None


# ---------------------------------------------------------------------------- the text
def _parse(text: str) -> tuple[dict[str, _Computation], str | None]:
    computations: dict[str, _Computation] = {}
    entry = current = None
    for line in text.splitlines():
        if found := _COMPUTATION.match(line):
            current = computations.setdefault(found[2], _Computation())
            entry = found[2] if found[1] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and (found := _INSTRUCTION.match(line)):
            current.instructions.append(_instruction(found[1], found[2]))
    return computations, entry


def _instruction(name: str, text: str) -> _Instruction:
    """``TYPE opcode(operands), attributes``; a tuple's type has brackets and spaces."""
    end = _closing(text, 0) if text.startswith("(") else text.find(" ")
    kind, rest = text[:end], text[end:].lstrip()
    opcode, bracket, _ = rest.partition("(")
    if not bracket:
        raise HloError(f"no instruction: %{name} = {text:.80}")
    stop = _closing(rest, len(opcode))
    inside = rest[len(opcode) : stop]
    if opcode == "constant":  # whose value is what stands in the brackets
        return _Instruction(
            name=name, type=kind, opcode=opcode, operands=(), rest=inside
        )
    operands = re.findall(r"%([\w.-]+)", inside)
    return _Instruction(
        name=name, type=kind, opcode=opcode, operands=operands, rest=rest[stop:]
    )


def _closing(text: str, start: int) -> int:
    """The index after the bracket that closes the one at ``start``."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if not depth:
            return i + 1
    raise HloError(f"a bracket is not closed: {text:.80}")


def type_bytes(text: str) -> int:
    """Bytes of a type: an array, or a tuple of arrays."""
    total = 0
    for dtype, shape in _ARRAY.findall(text):
        count = math.prod(int(n.lstrip("<=")) for n in shape.split(",") if n)
        total += math.ceil(count * _bits(dtype) / 8)
    return total


def _bits(dtype: str) -> int:
    if dtype in ("token", "opaque"):
        return 0
    if dtype == "pred":
        return 8
    digits = re.search(r"\d+", dtype)
    if digits is None:
        raise HloError(f"unknown dtype {dtype}")
    return int(digits[0])


def group_size(attributes: str, devices: int) -> int:
    """Devices that share one exchange, from a collective's attributes.

    ``replica_groups`` are lists (``{{0,1},{2,3}}``), a shape of groups and members
    (``[4,2]<=[8]``), or axes of a mesh (``mesh['a'=4,'b'=2] {'a'}``, maybe with the
    order of its devices before the axes); without any all ``devices`` take part. A
    permutation's pairs are exchanges of two.
    """
    if "source_target_pairs=" in attributes:
        return 2
    found = re.search(r"replica_groups=(.*)", attributes)
    if not found or found[1].startswith("{}"):
        return devices
    form = found[1]
    if lists := re.match(r"\{\{([\d,]*)\}", form):
        return len(lists[1].split(","))
    if shape := re.match(r"\[(\d+),(\d+)\]<=", form):
        return int(shape[2])
    if mesh := re.match(r"mesh\[([^\]]*)\](?:, device_ids=\(.*?\))? \{([^}]*)\}", form):
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", mesh[1]))
        return math.prod(_axis(part, sizes) for part in mesh[2].split(",") if part)
    raise HloError(f"unknown replica_groups={form:.60}")


def _axis(part: str, sizes: Mapping[str, str]) -> int:
    """Size of ``'name'``, or of the part ``'name':(before)size`` of an axis."""
    found = re.match(r"\s*'([^']+)'(?::\(\d+\)(\d+))?", part)
    if found is None or found[1] not in sizes:
        raise HloError(f"unknown mesh axis {part}")
    return int(found[2] or sizes[found[1]])
