"""Collectives in HLO texts: sizes, groups, loops, branches."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.collectives import (
    KINDS,
    Collective,
    HloError,
    collectives,
    group_size,
    moved_bytes,
    type_bytes,
)

# What XLA writes, shortened: a scan over five layers, weights split four ways.
LOOP = """\
HloModule jit_f, is_scheduled=true, num_partitions=8

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%slice_computation (p0: f32[5,16,32], p1: s32[]) -> f32[16,32] {
  %p0 = f32[5,16,32]{2,1,0} parameter(0)
  ROOT %s = f32[16,32]{1,0} bitcast(%p0)
}

%body (carry: (s32[], f32[4,64], f32[5,16,32])) -> (s32[], f32[4,64], f32[5,16,32]) {
  %carry = (s32[], f32[4,64]{1,0}, f32[5,16,32]{2,1,0}) parameter(0)
  %i = s32[] get-tuple-element(%carry), index=0
  %w = f32[5,16,32]{2,1,0} get-tuple-element(%carry), index=2
  %own = f32[16,32]{1,0} fusion(%w, %i), kind=kLoop, calls=%slice_computation
  %gathered = f32[64,32]{1,0} all-gather(%own), channel_id=2, \
replica_groups=[2,4]<=[4,2]T(1,0), dimensions={0}, metadata={op_name="jit(f)/while"}
  %product = f32[4,64]{1,0} custom-call(%gathered), custom_call_target="dot"
  %reduced = f32[4,64]{1,0} all-reduce(%product), channel_id=4, \
replica_groups={{0,1},{2,3},{4,5},{6,7}}, to_apply=%add
  ROOT %next = (s32[], f32[4,64]{1,0}, /*index=2*/f32[5,16,32]{2,1,0}) \
tuple(%i, %reduced, %w)
}

%condition (carry.1: (s32[], f32[4,64], f32[5,16,32])) -> pred[] {
  %carry.1 = (s32[], f32[4,64]{1,0}, f32[5,16,32]{2,1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%carry.1), index=0
  %limit = s32[] constant(5)
  ROOT %less = pred[] compare(%i.1, %limit), direction=LT
}

ENTRY %main (a: f32[4,64], w.1: f32[5,16,32]) -> f32[] {
  %a = f32[4,64]{1,0} parameter(0)
  %w.1 = f32[5,16,32]{2,1,0} parameter(1)
  %zero = s32[] constant(0)
  %start = (s32[], f32[4,64]{1,0}, f32[5,16,32]{2,1,0}) tuple(%zero, %a, %w.1)
  %loop = (s32[], f32[4,64]{1,0}, f32[5,16,32]{2,1,0}) while(%start), \
condition=%condition, body=%body, metadata={op_name="while"}\
KNOWN
  %last = f32[4,64]{1,0} get-tuple-element(%loop), index=1
  ROOT %all = f32[4,64]{1,0} all-reduce(%last), replica_groups={}, to_apply=%add
}
"""
KNOWN = ', backend_config={"known_trip_count":{"n":"5"}}'
UNKNOWN = LOOP.replace("constant(5)", "parameter(1)")


@pytest.mark.parametrize("known", [KNOWN, ""], ids=["stated", "from the condition"])
def test_what_stands_in_a_loop_counts_as_often_as_it_turns(known: str):
    gather, reduce, last = collectives(LOOP.replace("KNOWN", known))
    assert gather == Collective(
        kind="all-gather", name="gathered", operand_bytes=16 * 32 * 4, group=4, times=5
    )
    assert gather.moved == 5 * 3 * 2048
    assert (reduce.group, reduce.times, reduce.moved) == (2, 5, 5 * 1024.0)
    assert (last.group, last.times, last.moved) == (8, 1, 2 * 1024 * 7 / 8)
    found = moved_bytes([gather, reduce, last])
    assert found["all-gather"] == 30720 and found["all-reduce"] == 5120 + 1792
    assert found["total"] == sum(found.values()) / 2


def test_a_loop_that_does_not_say_how_often_counts_once_and_is_marked():
    gather, reduce, last = collectives(UNKNOWN.replace("KNOWN", ""))
    assert (gather.times, gather.counted) == (1, False)
    assert not reduce.counted and last.counted


def test_loops_in_loops_multiply():
    text = LOOP.replace("KNOWN", KNOWN)
    inner = re.search(r"ENTRY %main(.*)", text, re.S)
    assert inner is not None
    outer = inner[0].replace("ENTRY %main", "%outer").replace("f32[] {", "s32[] {")
    text = text.replace(inner[0], outer) + (
        "ENTRY %twice (b: s32[]) -> s32[] {\n"
        "  %b = s32[] parameter(0)\n"
        "  ROOT %w = s32[] while(%b), condition=%condition, body=%outer, "
        'backend_config={"known_trip_count":{"n":"3"}}\n}\n'
    )
    assert [one.times for one in collectives(text)] == [15, 15, 3]


def test_starts_count_and_dones_do_not():
    text = (
        "HloModule m, num_partitions=4\n\n"
        "ENTRY %main (a: bf16[8,3]) -> bf16[32,3] {\n"
        "  %a = bf16[8,3]{1,0} parameter(0)\n"
        "  %s = (bf16[8,3]{1,0}, bf16[32,3]{1,0}) all-gather-start(%a), "
        "replica_groups={{0,1,2,3}}, dimensions={0}\n"
        "  %d = bf16[32,3]{1,0} all-gather-done(%s)\n"
        "  %p = bf16[32,3]{1,0} collective-permute(%d), "
        "source_target_pairs={{0,1},{1,2},{2,3}}\n"
        "  %t = (f32[4]{0}, f32[2]{0}) tuple(%a, %a)\n"
        "  %one = f32[4]{0} get-tuple-element(%t), index=0\n"
        "  %two = f32[2]{0} get-tuple-element(%t), index=1\n"
        "  %r = (f32[4]{0}, f32[2]{0}) all-reduce(%one, %two), replica_groups={}\n"
        "  ROOT %x = f32[4]{0} all-to-all(%one), replica_groups=[1,4]<=[4]\n}\n"
    )
    found = {one.kind: one.moved for one in collectives(text)}
    assert len(collectives(text)) == 4
    assert found == {
        "all-gather": 48 * 3,
        "collective-permute": 32 * 3 * 2,
        "all-reduce": 2 * 24 * 3 / 4,
        "all-to-all": 16 * 3 / 4,
    }


def test_of_branches_the_dearest_is_counted():
    side = "%{0} (a{0}: f32[{1}]) -> f32[{1}] {{\n  %a{0} = f32[{1}] parameter(0)\n"
    side += "  ROOT %r{0} = f32[{1}] all-reduce(%a{0}), replica_groups={{}}\n}}\n\n"
    text = "HloModule m, num_partitions=2\n\n"
    text += side.format("small", 8) + side.format("large", 64)
    text += (
        "ENTRY %main (p: s32[], x: f32[8], y: f32[64]) -> f32[] {\n"
        "  %p = s32[] parameter(0)\n"
        "  %x = f32[8] parameter(1)\n"
        "  %y = f32[64] parameter(2)\n"
        "  ROOT %c = f32[] conditional(%p, %x, %y), "
        "branch_computations={%small, %large}\n}\n"
    )
    (one,) = collectives(text)
    assert one.operand_bytes == 256


# ---------------------------------------------------------------------------- the parts
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("f32[4,64]{1,0}", 1024),
        ("bf16[3]", 6),
        ("pred[7]", 7),
        ("s4[3]", 2),
        ("f8e4m3fn[10]{0}", 10),
        ("f32[]", 4),
        ("(f32[2]{0}, /*index=1*/s32[], token[])", 12),
        ("c64[2]", 16),
    ],
)
def test_bytes_of_types(text: str, expected: int):
    assert type_bytes(text) == expected


@given(groups=st.integers(1, 6), members=st.integers(1, 6))
def test_groups_in_every_form_have_the_same_size(groups: int, members: int):
    total = groups * members
    lists = [list(range(i * members, (i + 1) * members)) for i in range(groups)]
    written = ",".join("{" + ",".join(map(str, one)) + "}" for one in lists)
    forms = [
        f"replica_groups={{{written}}}, to_apply=%add",
        f"replica_groups=[{groups},{members}]<=[{total}], dimensions={{0}}",
        f"replica_groups=[{groups},{members}]<=[{members},{groups}]T(1,0), x={{}}",
        f"replica_groups=mesh['a'={groups},'b'={members}] {{'b'}}, x={{0}}",
        f"replica_groups=mesh['a'={total}] {{'a':(1){members}}}",
        f"replica_groups=mesh['a'={groups},'b'={members}], "
        f"device_ids=([{members},{groups}]T(1,0)) {{'b'}}, dimensions={{0}}",
    ]
    assert {group_size(form, 99) for form in forms} == {members}
    whole = f"replica_groups=mesh['a'={groups},'b'={members}] {{'a','b'}}"
    assert group_size(whole, 99) == total
    assert group_size("replica_groups={}, to_apply=%add", total) == total
    assert group_size("", total) == total


@given(
    kind=st.sampled_from(KINDS), size=st.integers(0, 10**9), times=st.integers(0, 100)
)
def test_nothing_is_moved_by_one_device_and_more_by_more_runs(kind, size, times):
    make = lambda **given: Collective(
        kind=kind, name="x", operand_bytes=size, **{"group": 4, **given}
    )
    assert make(group=1).moved == 0
    assert make(times=times).moved == pytest.approx(times * make().moved)


def test_what_is_not_hlo_is_refused():
    with pytest.raises(HloError, match="no entry computation"):
        collectives("module @jit_f {\n}\n")
    with pytest.raises(HloError, match="replica_groups"):
        group_size("replica_groups=<new>", 8)
