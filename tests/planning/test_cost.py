"""What is counted in a program's text: by hand, and of programs whose cost is known."""

import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from diffpo_jax.config import MeshConfig
from diffpo_jax.distributed.mesh import make_mesh
from diffpo_jax.planning import collectives, cost, hlo

# Eight devices.  A loop of five turns gathers f32[4,6] among groups of four and multiplies; after
# it an all-reduce of bf16[100] among all, and a loop of unknown length with an all-to-all.
BY_HAND = textwrap.dedent("""\
    HloModule by_hand, is_scheduled=true, num_partitions=8

    %add (a: f32[], b: f32[]) -> f32[] {
      %a = f32[] parameter(0)
      %b = f32[] parameter(1)
      ROOT %sum = f32[] add(%a, %b)
    }

    %body (p: (s32[], f32[4,6], f32[6,3])) -> (s32[], f32[4,6], f32[6,3]) {
      %p = (s32[], f32[4,6]{1,0:T(8,128)}, /*index=2*/f32[6,3]) parameter(0)
      %i = s32[] get-tuple-element(%p), index=0
      %x = f32[4,6] get-tuple-element(%p), index=1
      %w = f32[6,3] get-tuple-element(%p), index=2
      %all = f32[16,6] all-gather(%x), channel_id=1, replica_groups=[2,4]<=[8], dimensions={0}
      %y = f32[16,3] dot(%all, %w), lhs_contracting_dims={1}, rhs_contracting_dims={0}
      %one = s32[] constant(1)
      %next = s32[] add(%i, %one)
      ROOT %out = (s32[], f32[4,6], f32[6,3]) tuple(%next, %x, %w)
    }

    %below (p.1: (s32[], f32[4,6], f32[6,3])) -> pred[] {
      %p.1 = (s32[], f32[4,6], f32[6,3]) parameter(0)
      %i.1 = s32[] get-tuple-element(%p.1), index=0
      %five = s32[] constant(5)
      ROOT %lt = pred[] compare(%i.1, %five), direction=LT
    }

    %open_body (q: (f32[8], pred[])) -> (f32[8], pred[]) {
      %q = (f32[8], pred[]) parameter(0)
      %z = f32[8] get-tuple-element(%q), index=0
      %again = pred[] get-tuple-element(%q), index=1
      %mixed = f32[8] all-to-all(%z), replica_groups={{0,1},{2,3},{4,5},{6,7}}, dimensions={0}
      ROOT %later = (f32[8], pred[]) tuple(%mixed, %again)
    }

    %open (q.1: (f32[8], pred[])) -> pred[] {
      %q.1 = (f32[8], pred[]) parameter(0)
      ROOT %goes = pred[] get-tuple-element(%q.1), index=1
    }

    %all-reduce-scatter.1 (s: bf16[80]) -> bf16[10] {
      %s = bf16[80] parameter(0)
      %whole = bf16[80] all-reduce(%s), replica_groups={}, to_apply=%add
      %at = s32[] constant(0)
      ROOT %part = bf16[10] dynamic-slice(%whole, %at), dynamic_slice_sizes={10}
    }

    %apart (u: f32[64]) -> f32[8] {
      %u = f32[64] parameter(0)
      ROOT %scattered = f32[8] reduce-scatter(%u), replica_groups={}, dimensions={0}, to_apply=%add
    }

    ENTRY %main (x0: f32[4,6], r: bf16[100], z0: f32[8], t: bf16[80], u0: f32[64]) -> f32[8] {
      %x0 = f32[4,6] parameter(0)
      %w0 = f32[6,3] parameter(1)
      %r = bf16[100] parameter(2)
      %z0 = f32[8] parameter(3)
      %t = bf16[80] parameter(4)
      %u0 = f32[64] parameter(5)
      %begun = ((f32[64]), f32[8], s32[]) async-start(%u0), calls=%apart
      %ended = f32[8] async-done(%begun), calls=%apart
      %zero = s32[] constant(0)
      %yes = pred[] constant(true)
      %in = (s32[], f32[4,6], f32[6,3]) tuple(%zero, %x0, %w0)
      %scan = (s32[], f32[4,6], f32[6,3]) while(%in), condition=%below, body=%body
      %summed = bf16[100] all-reduce(%r), replica_groups=mesh['a'=2,'b'=4] {'a','b'}, to_apply=%add
      %shared = bf16[10] fusion(%t), kind=kCustom, calls=%all-reduce-scatter.1
      %go = (bf16[80], bf16[80]) collective-permute-start(%t), source_target_pairs={{0,1}}
      %went = bf16[80] collective-permute-done(%go)
      %pair = (f32[8], pred[]) tuple(%z0, %yes)
      %last = (f32[8], pred[]) while(%pair), condition=%open, body=%open_body
      ROOT %result = f32[8] get-tuple-element(%last), index=0
    }
    """)


def test_collectives_by_hand():
    counted = cost.of_text(BY_HAND)
    assert counted.moved == {
        "all-gather": 5 * 3 * 4 * 6 * 4,  # five turns; three others get 24 numbers of four bytes
        "all-reduce": 2 * 7 / 8 * 100 * 2,
        # A TPU's fusion of that name, and one that runs beside other work.
        "reduce-scatter": 7 / 8 * 80 * 2 + 7 / 8 * 64 * 4,
        "collective-permute": 80 * 2,  # once, where it starts
        "all-to-all": 1 / 2 * 8 * 4,
    }
    assert counted.flops == 5 * 2 * 16 * 3 * 6
    assert counted.open_loops == 1


# As TPU's compiler writes a sum over two slices of four devices: each first sums with those of its
# own slice and keeps a part, which goes to the host.
SLICES = textwrap.dedent("""\
    HloModule slices, num_partitions=8

    %add (a: f32[], b: f32[]) -> f32[] {
      %a = f32[] parameter(0)
      %b = f32[] parameter(1)
      ROOT %sum = f32[] add(%a, %b)
    }

    ENTRY %main (x: f32[400]) -> f32[100] {
      %x = f32[400] parameter(0)
      %own = f32[400] all-reduce(%x), replica_groups={{0,1,2,3}}, to_apply=%add
      %part = f32[100] slice(%own), slice={[0:100]}
      %go = token[] after-all()
      %send = (f32[100], u32[], token[]) send(%part, %go), channel_id=2, is_host_transfer=true, \
    frontend_attributes={_xla_megascale_target="{1,2,3}x{0:3}",\
    _xla_megascale_transfer_type="ALL_REDUCE"}
      %sent = token[] send-done(%send), channel_id=2, is_host_transfer=true
      %recv = (f32[100], u32[], token[]) recv(%go), channel_id=1, is_host_transfer=true, \
    frontend_attributes={_xla_megascale_target="{1,2,3}x{0:3}",\
    _xla_megascale_transfer_type="ALL_REDUCE"}
      %done = (f32[100], token[]) recv-done(%recv), channel_id=1, is_host_transfer=true
      ROOT %all = f32[100] get-tuple-element(%done), index=0
    }
""")


def test_between_slices_by_hand():
    """Three slices: four thirds of 100 numbers are sent, once, and not counted within a slice."""
    counted = cost.of_text(SLICES)
    assert counted.between == {"all-reduce": pytest.approx(4 / 3 * 400)}
    assert counted.moved == {"all-reduce": 2 * 3 / 4 * 1600}
    assert counted.times(3).between["all-reduce"] == pytest.approx(4 * 400)
    assert (counted + counted).between["all-reduce"] == pytest.approx(8 / 3 * 400)


def test_a_loop_of_unknown_length_runs_as_often_as_is_said():
    once, often = cost.of_text(BY_HAND), cost.of_text(BY_HAND, (30,))
    assert often.moved["all-to-all"] == 30 * once.moved["all-to-all"]
    assert often.moved["all-gather"] == once.moved["all-gather"]
    assert often.flops == once.flops


# A loop as XLA makes it where products and sends go on at the same time: two turns in one, the
# bound carried along, the test fused.
DOUBLED = textwrap.dedent("""\
    HloModule doubled, num_partitions=8

    %below (a: s32[], b: s32[]) -> pred[] {
      %a = s32[] parameter(0)
      %b = s32[] parameter(1)
      ROOT %lt = pred[] compare(%a, %b), direction=LT
    }

    %goes (p: (s32[], f32[3], s32[])) -> pred[] {
      %p = (s32[], f32[3], s32[]) parameter(0)
      %i = s32[] get-tuple-element(%p), index=0
      %most = s32[] get-tuple-element(%p), index=2
      ROOT %test = pred[] fusion(%i, %most), kind=kLoop, calls=%below
    }

    %body (q: (s32[], f32[3], s32[])) -> (s32[], f32[3], s32[]) {
      %q = (s32[], f32[3], s32[]) parameter(0)
      %j = s32[] get-tuple-element(%q), index=0
      %x = f32[3] get-tuple-element(%q), index=1
      %n = s32[] get-tuple-element(%q), index=2
      %one = s32[] constant(STEP)
      %next = s32[] add(%j, %one)
      %there = f32[3] collective-permute(%x), source_target_pairs={{0,1}}
      %after = s32[] add(%one, %next)
      ROOT %out = (s32[], f32[3], s32[]) tuple(%after, %there, %n)
    }

    ENTRY %main (x0: f32[3]) -> f32[3] {
      %x0 = f32[3] parameter(0)
      %first = s32[] constant(FIRST)
      %start = s32[] copy(%first)
      %seven = s32[] constant(7)
      %in = (s32[], f32[3], s32[]) tuple(%start, %x0, %seven)
      %loop = (s32[], f32[3], s32[]) while(%in), condition=%goes, body=%body
      ROOT %y = f32[3] get-tuple-element(%loop), index=1
    }
    """)


@pytest.mark.parametrize(("first", "step", "turns"), [(0, 1, 4), (3, 1, 2), (0, 2, 2), (9, 1, 0)])
def test_turns_of_a_loop_that_counts_otherwise(first, step, turns):
    text = DOUBLED.replace("FIRST", str(first)).replace("STEP", str(step))
    counted = cost.of_text(text)
    assert counted.moved == {"collective-permute": turns * 3 * 4}
    assert counted.open_loops == 0


def test_a_collective_that_is_spread_over_fusions_counts_once():
    """Its parts name one chain; another one is another collective."""
    part = """
        %part.N (x.N: f32[5]) -> f32[40] {
          %x.N = f32[5] parameter(0)
          ROOT %all.N = f32[40] all-gather(%x.N), frontend_attributes={chain_id="C"}
        }
        """
    parts = "".join(part.replace("N", n).replace("C", c) for n, c in ("10", "20", "30", "41"))
    calls = "".join(
        f"  %f{n} = f32[40] fusion(%x), kind=kCustom, calls=%part.{n}\n" for n in range(1, 5)
    )
    text = (
        f"HloModule chains, num_partitions=8\n{textwrap.dedent(parts)}\n"
        f"ENTRY %main (x: f32[5]) -> f32[40] {{\n  %x = f32[5] parameter(0)\n{calls}"
        "  ROOT %y = f32[40] add(%f3, %f4)\n}\n"
    )
    assert cost.of_text(text).moved == {"all-gather": 2 * 7 * 5 * 4}


def test_memory_by_hand():
    text = textwrap.dedent("""\
        HloModule fused

        %cut (all: f32[7,64], i: s32[]) -> f32[1,64] {
          %all = f32[7,64] parameter(0)
          %i = s32[] parameter(1)
          %zero = s32[] constant(0)
          %one = f32[1,64] dynamic-slice(%all, %i, %zero), dynamic_slice_sizes={1,64}
          ROOT %twice = f32[1,64] add(%one, %one)
        }

        ENTRY %main (x: f32[7,64], n: s32[], v: f32[64]) -> f32[1,64] {
          %x = f32[7,64] parameter(0)
          %n = s32[] parameter(1)
          %v = f32[64]{0:T(128)S(1)} parameter(2)
          %held = f32[64]{0:T(128)S(1)} negate(%v)
          ROOT %y = f32[1,64] fusion(%x, %n), kind=kLoop, calls=%cut
        }
        """)
    # One row of seven is read and one written; n is four bytes; what lies in VMEM is free.
    assert cost.of_text(text).memory == 64 * 4 + 4 + 64 * 4


@pytest.mark.parametrize(
    ("attributes", "size"),
    [
        ("replica_groups=[16,4]<=[64]", 4),
        ("replica_groups=[4,16]<=[16,4]T(1,0), use_global_device_ids=true", 16),
        ("replica_groups={{0,1,2},{3,4,5}}, dimensions={0}", 3),
        ("replica_groups=mesh['a'=4,'b'=2] {'b'}", 2),
        ("replica_groups=mesh['a'=4,'b'=2] {'a':(1)2,'b'}", 4),
        ("replica_groups={}", 64),
        ("dimensions={0}", 64),
    ],
)
def test_groups(attributes, size):
    assert collectives.group_size(attributes, 64) == size


def test_products_in_a_tpu_programs_form():
    """A batch of 3 products [5 4] x [4 6] stands there as a window that slides over holes."""
    text = textwrap.dedent("""\
        HloModule batch

        ENTRY %main (x: bf16[3,5,4], w: bf16[3,4,6], u: bf16[7,8], k: bf16[8,9]) -> bf16[7,9] {
          %x = bf16[3,5,4] parameter(0)
          %w = bf16[3,4,6] parameter(1)
          %u = bf16[7,8] parameter(2)
          %k = bf16[8,9] parameter(3)
          %batch = bf16[3,5,6] convolution(%x, %w), WINDOW, dim_labels=0bf_0io->0bf
          ROOT %plain = bf16[7,9] convolution(%u, %k), dim_labels=bf_io->bf
        }
        """).replace("WINDOW", "window={size=3 stride=2 lhs_dilate=3}")
    assert cost.of_text(text).flops == 2 * 3 * 5 * 4 * 6 + 2 * 7 * 8 * 9


@pytest.mark.parametrize("phase, products", [("fwd", 2), ("dq", 3), ("dkv", 4)])
def test_products_of_a_kernel_of_attention(phase, products):
    """4 heads of 5 queries with 2 of 7 keys, 3 rows: the text breaks off within its attributes."""
    name = f"%splash_mha_{phase}_segmented_residuals.1"
    text = textwrap.dedent(f"""\
        HloModule kernel

        ENTRY %main (q: bf16[3,4,5,8], k: bf16[3,2,7,8]) -> bf16[3,4,5,8] {{
          %q = bf16[3,4,5,8] parameter(0)
          %k = bf16[3,2,7,8] parameter(1)
          %s = s8[1] constant(0)
          {name} = (f32[3], bf16[3,4,5,8]) custom-call(%s, %s, %q, %k, %k), metadata={{
        "block_q": 384
        }}}}, custom_call_target="tpu_custom_call"
          ROOT %out = bf16[3,4,5,8] get-tuple-element({name}), index=1
        }}
        """)
    assert cost.of_text(text).flops == products * 2 * 3 * 4 * 5 * 7 * 8


@pytest.mark.parametrize("way, products", [("", 2), ("Backward", 5)])
def test_products_of_cudnns_attention(way, products):
    text = textwrap.dedent("""\
        HloModule kernel

        ENTRY %main (q: bf16[3,5,4,8], k: bf16[3,7,2,8]) -> bf16[3,5,4,8] {
          %q = bf16[3,5,4,8] parameter(0)
          %k = bf16[3,7,2,8] parameter(1)
          %y = (bf16[3,5,4,8], u8[0]) custom-call(%q, %k, %k), custom_call_target="TARGET"
          ROOT %out = bf16[3,5,4,8] get-tuple-element(%y), index=0
        }
        """).replace("TARGET", f"__cudnn$fmhaScaleBiasSoftmax{way}")
    assert cost.of_text(text).flops == products * 2 * 3 * 4 * 5 * 7 * 8


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(MeshConfig(data=8))


def compiled(function, mesh, *arguments):
    """The program of arrays given by shape and spec."""
    shapes = [
        jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec))
        for shape, spec in arguments
    ]
    return jax.jit(function, out_shardings=NamedSharding(mesh, P())).lower(*shapes).compile()


def test_an_all_reduce_of_eight_devices(mesh):
    program = compiled(lambda x: x.sum(axis=0), mesh, ((16, 1024), P("data")))
    counted = cost.of_text(program.as_text())
    assert counted.moved == {"all-reduce": 2 * 7 / 8 * 1024 * 4}


def test_a_scan_counts_every_turn(mesh):
    def function(weights, x):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]

    program = compiled(function, mesh, ((9, 64, 64), P()), ((32, 64), P()))
    counted = cost.of_text(program.as_text())
    assert counted.flops == 9 * 2 * 32 * 64 * 64
    assert counted.open_loops == 0
    # The compiler's own count has the body once, and the tanh.
    own = program.cost_analysis()["flops"]
    assert 2 * 32 * 64 * 64 <= own < 2 * counted.flops / 9


def test_without_loops_products_are_what_the_compiler_counts(mesh):
    program = compiled(lambda x, w: x @ w, mesh, ((64, 512), P("data")), ((512, 256), P()))
    counted = cost.of_text(program.as_text())
    np.testing.assert_allclose(counted.flops, program.cost_analysis()["flops"], rtol=0.01)
    assert counted.flops == 2 * 8 * 512 * 256


def test_a_text_without_a_program():
    with pytest.raises(ValueError, match="no ENTRY"):
        hlo.parse("nothing of the kind")
