#!/usr/bin/env python3
"""Composes configuration trees with Hydra and writes down what comes out.

    python3 tests/oracle/hydra.py            rewrites tests/oracle/hydra/*.jsonl

needs hydra-core 1.3 and the sources' conf/. tests/unit/test_conf_oracle.c replays the vectors
without Python: a case has the arguments, and either the resolved configuration as
OmegaConf.to_yaml writes it (its digest where it is long), or the fact that it is refused.
"""
import hashlib
import itertools
import json
import os
import random
import shutil
import sys
import tempfile
import warnings

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [p for p in sys.path if os.path.abspath(p) != HERE]  # this file is not that module

import hydra
import omegaconf
import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf, open_dict

ROOT = os.path.dirname(os.path.dirname(HERE))
OUT = os.path.join(HERE, "hydra")
PRIMARY = "preset/qwen3_lm_sensitivity"
SIZES = ["small", "medium", "large"]

os.environ["AQ_ORACLE_VAR"] = "from the environment"
os.environ.pop("AQ_NOT_SET", None)
warnings.simplefilter("ignore")


def options(group):
    return sorted(f[:-5] for f in os.listdir(os.path.join(ROOT, "conf", group)) if f.endswith(".yaml"))


def worked_examples():
    """Section 7 of the configuration rules, by number, as far as they are about composition."""
    arch = "model/qwen3_vl_4b_instruct/arch"
    return [
        [], ["quant_pair=wint8_aint8", "dataset.size=small"],
        ["dataset.size=medium", "dataset.max_calib_samples=64", "dataset.calib_seq_len=256"],
        ["autoquant.effective_bits=7.0", "autoquant.score_size=256"], ["autoquant.effective_bits=7"],
        ["autoquant.verbose=yes"], ["autoquant.verbose=FALSE"], ["quant_pair=nope"],
        ["quant_pair.scheme_name=foo"], ["+quant_pair.scheme_name=foo"], ["++quant_pair.scheme_name=foo"],
        ["quant_pair=wint8_aint8", "+quant_pair.scheme_name=foo"],
        ["quant_pair=wint8_aint8", "quant_pair.scheme_name=foo"],
        ["quant_pair=wint8_aint8", "~quant_pair.scheme_name"],
        ["~quant_pair.experimental=false"], ["~quant_pair.experimental=true"],
        ["~hardware"], ["~hardware=multi_gpu_8x3090"], ["~hardware=single_gpu"],
        ["hardware=multi_gpu_8x3090", "hardware.device_indices=[0,1]"],
        ["hardware=multi_gpu_8x3090", "hardware.device_indices.0=5"],
        ["hardware=multi_gpu_8x3090", "hardware.device_indices.8=5"],
        ["hardware=multi_gpu_8x3090", "hardware.device_indices.x=5"],
        ["hardware=multi_gpu_8x3090", "~hardware.device_indices.0"],
        ["hardware=multi_gpu_8x3090", "+hardware.device_indices.8=5"],
        ["hardware=multi_gpu_8x3090", "+hardware.device_indices.0.x=5"],
        ["hardware=[single_gpu,multi_gpu_8x3090]"], ["hardware=[multi_gpu_8x3090,single_gpu]"],
        ["quant_pair.weight=int8", "quant_pair=wfp4_afp8"], ["quant_pair=wfp4_afp8", "quant_pair=wint8_afp16"],
        ["+x=1", "x=2"], ["x=2", "+x=1"], ["nogroup/foo=1"],
        [arch + "@model=nope"], [arch + "=qwen3_vl_4b_instruct.default"],
        [arch + "@model=qwen3_vl_4b_instruct.default.yaml"], ["quant_pair=wint8_aint8.yaml"],
        ["model.path=/abs/path/to/Qwen3-VL-4B-Instruct"],
        ["output_layout=publish", "output_layout.root_dir=/x", "runner.output_dir=rel/dir"],
        ["output_layout.mode=publish"], ["runner.output_dir=models/${quant_pair.name}/${dataset.size}"],
        ["quant_granularity=recipe_match_channel_token"], ["quant_granularity={name: mine}"],
        ["quant_granularity.quant_cfg_overrides={*weight_quantizer:{axis:0}}"],
        ["+quant_granularity.quant_cfg_overrides={*weight_quantizer:{block_sizes:{-1:32}}}", "quant_granularity.name=w_g32"],
        ["quant_granularity=w_group128", "quant_granularity.quant_cfg_overrides={*weight_quantizer:{block_sizes:{-1:32}}}"],
        ["dataset.size_to_max_samples={small:4}"], ["dataset.size_to_max_samples={tiny:4}"],
        ["+dataset.size_to_max_samples.tiny=4", "dataset.size=tiny"], ["~quant_granularity"],
        ["+dataset.x=${.size}"], ["+dataset.x.y=${..size}"], ["quant_granularity=[default,w_group64]"],
        ["quant_granularity=[w_group64,a_per_token_dynamic]"], ["+quant_pair=wint8_aint8@x"],
        ["quant_pair@foo=wint8_aint8"], ["quant_pair@quant_pair=wint8_aint8"], ["dataset@foo=x"],
        ["foo@bar=1"], ["quant_pair=null"], ["quant_pair=5"], ["quant_pair=true"], ["quant_pair="], ["quant_pair=1.5"],
        ["++quant_pair=wint8_aint8"], ["~quant_pair"], ["~quant_pair=wfp8_afp8"], ["~quant_pair=[a]"],
        ["~nope"], ["~dataset.nope"], ["~dataset.size"], ["~dataset.size=large"], ["~dataset.size=small"],
        ["~dataset.max_calib_samples"], ["~dataset.size_to_max_samples.small"], ["~dataset.size_to_max_samples.small=16"],
        ["~dataset.size_to_max_samples.small=16.0"], ["~dataset.captions_path"], ["~experiment"], ["~runner"],
        ["~quant_granularity.quant_cfg_overrides"], ["~dataset={}"],
        ["experiment=e"], ["experiment.foo=1"], ["+experiment.foo=1"], ["++experiment.foo=1"], ["dataset=5"],
        ["dataset={size: small}"], ["dataset={nope: small}"], ["+dataset={nope: small}"], ["++dataset={nope: small}"],
        ["dataset.size={a: 1}"], ["dataset.size=[1,2]"], ["dataset.size_to_max_samples=[1,2]"],
        ["dataset.size_to_max_samples=5"], ["dataset.size_to_max_samples=null"], ["+dataset.max_calib_samples=5"],
        ["+dataset.size=5"], ["+dataset.size=[5]"], ["+dataset.size={a: 5}"], ["+dataset.size_to_max_samples=[5]"],
        ["+dataset.captions_path=x"], ["dataset.captions_path=x"], ["hardware={device_index: 3}"],
        ["autoquant=kl_default"], ["autoquant=modelopt_parity"], ["autoquant=[gradient_default,kl_default]"],
        ["autoquant=modelopt_parity", "autoquant.cost=storage"], ["output_layout=publish"],
        ["output_layout=publish", "model.name=other"], ["dataset=demo_captions"],
        ["dataset.root=/data", "dataset.size=small"], ["dataset.root=${oc.env:AQ_ORACLE_VAR}"],
        ["hydra.job.name=x"], ["hydra.nope=x"], ["+hydra.nope=x"], ["hydra.run.dir=zz"], ["hydra.verbose=true"],
        ["+new.deep.key=1", "new.deep.key=2"], ["+new.deep.key=1", "new.deep.other=2"], ["+a.b=1", "+a={c: 2}"],
        ["+a.b=1", "+a=[1]"], ["+l=[1,2]", "+l=[3]"], ["+l=[1,2]", "l=[3]"], ["+l=[1,2]", "l.1=x"], ["+a={b: 1}", "a={b: 2}"],
        ["+a={b: {c: 1}}", "a={b: {d: 2}}"], ["+a={b: {c: 1}}", "++a={b: {d: 2}}"], ["+a=1", "++a={b: 2}"],
        ["+a=null", "+a=1"], ["+a=1", "+a=null"], ["+a={}", "a={b: 1}"], ["+a={}", "+a.b=1"], ["+a=[]", "+a.0=1"],
        ["dataset.size=small", "dataset.size=medium"], ["~hardware", "~hardware"], ["~hardware", "hardware=single_gpu"],
        ["+hardware.x=1", "~hardware.x"], ["+a=???"], ["experiment=???"], ["model.name=${experiment}"],
    ]


VALUES = """1 -1 +5 0 -0 00 007 1_000 1__0 0x10 1e3 1E-3 1.5 .5 5. +1.5 -1.5e+10 1e400 1_0.5 1._5 1.5.2 inf -inf nan NaN +inf INF infinity
true TRUE False yes no on off null NULL Null ~ none None a a-b a.b a/b a:b :a a: a+b a%b a*b a@b a|b a?b $a ${experiment} a${experiment}b
${experiment}${experiment} 'a' "a" 'a' "a b" 'a\\'b' "a\\"b" 'a\\\\' 'a\\nb' 'a"b' "a'b" '' "" 'x,y' '[1]' '1' '${experiment}' 'a'b a'b' 'a
[] [1] [1,2] [1,[2,[3]]] [a,'b',"c d",null,true,1.5] [1,] [,1] [1 [1]] [ ] [[]] [a:b] [${experiment}]
{} {a:1} {a:1,b:{c:[1]}} {a: 1, b: x} {-1:5} {1.5:a} {true:a} {null:a} {'a':1} {a:1,a:2} {a} {a:} {a:1 {a:1}} {*w:1} {a b:1} {a:b:c} {${x}:1} {a:${experiment}}
a\\,b a\\ b \\[a\\] \\{a\\} \\(a\\) a\\:b a\\=b a\\\\b \\a a\\ \\, a=b a#b a&b a!b a;b a<b a>b a^b a`b a(b a)b (a) ~/foo é "é" a,b a, ,a
int(5) int(5.7) int('5') int(x) int(true) int([1.5,2.5]) int({a:1.5}) float(1) float('1e3') float(true) float(inf) str(1) str(1.0) str(true) str([1,a]) str(null) str('a')
bool(1) bool(0) bool('true') bool(yes) bool(True) int(value=5) int(5,6) int() foo(1) sort([3,1,2]) sort([3,1,2],reverse=true) sort([a,1]) sort(x) sort([1.5,1])
choice(a,b) choice(a) range(3) interval(1,2) glob(*) sort(3,1) tag(x,choice(a)) 5s 50% 1a a1 1-2 --1 +-1 - -- ... ??? ? | $ $$ @ @a *.* a.b.c a..b 2024-01-01 12:30 12:30:45 1:2 http://x/y?z a\tb""".split()

KEYS = ["x", "x.y", "x.y.z", "$x", "x$y", "x-y", "x.0", "x.01", "_x", "x/y", "x/y/z", "1x", "-x", "x[0]", "x y", "x.", ".x", "x..y", "x.*", "x@y", "x@", "@x", "x.1.y", "é", "x:y", "", "+x", "++x", "~x"]

SPACED = ["+x= a", "+x=a ", "+x= a b ", "+x=[ 1 , 2 ]", "+x={ a : 1 , b : 2 }", "+x=a , b", "+x='a' ", "+x= 'a'", "+x='a' 'b'", "+x=", "+x= ",
          "+x =1", "+ x=1", " +x=1", "+x=\ta\t", "+x=[a b, c d]", "+x=int( 5 )", "+x=int (5)", "+x=a\\  ", "+x=\\ a", "+x={a b: c d}", "+x=a: b", "+x=[a : b]",
          "+x={a: 'b: c'}", "+x=[1 2]", "+x=true false", "+x=null x", "+x=1 2", "+x=x: ", "+x=[x: ]", "x", "=", "=1", "x=1=2", "+x==1"]


def conf_cases():
    """Cases on the shipped tree."""
    for args in worked_examples():
        yield PRIMARY, args
    yield "preset/demo", []
    yield "preset/nope", []
    yield "quant_pair/wfp8_afp8", []
    for v in VALUES:
        yield PRIMARY, ["+x=" + v]
    for k in KEYS:
        yield PRIMARY, ["+" + k + "=1"]
        yield PRIMARY, [k + "=1"]
    for text in SPACED:
        yield PRIMARY, [text]


def append_cases():
    """
    Groups appended with +. Hydra looks them up below the directory of the primary configuration;
    here they count from the root of the tree, as they do in Hydra for a primary at the root.
    """
    for model in sorted(os.listdir(os.path.join(ROOT, "conf", "model"))):
        yield ["~model/qwen3_vl_demo/arch@model", "+model/%s/arch@model=%s.default" % (model, model)]
    yield ["+quant_pair@second=wint8_afp16"]
    yield ["+output_layout@other=publish", "hardware=multi_gpu_8x3090"]


SCALARS = """yes Yes YES yES no No NO on On ON off Off OFF true True TRUE false False FALSE tRue y n Y N 0o17 017 08 0b101 0b 0x1F 0xg 0X1F -0x1f +0x1f 1_000 1__0 _1
1e3 1e-3 1E5 -1e+5 .5 -.5 +.5 .5e3 .5e+3 5. 5.e3 1.5e3 1.5e+3 1._5 1_0.5 1_.5 12:30 12:30:45 1:60 -1:30 12:30.5 12:30:45.5 0:30 ~ null Null NULL nULL .nan .NaN .NAN .inf -.inf
+.inf .Inf .INF -.nan nan inf 2024-01-01 2024-01-01T00:00:00Z 1 -1 +1 0 -0 00 1.0 -1.0 1.50 1e400 1e-400 123456789012345678901234567890 9223372036854775807 -9223372036854775808
9223372036854775808 '1' "1" 'it''s' "a\tb" "\u00e9" "\x41" é a:b a::b http://x #x x#y x:#y ??? ?x -x - -- --- ... = == << <<x !x @x `x %x &x *x [1] {a:1} {a} [a,b] |x >x
1_000.5 1e1_0 0.1e1 1.e5 1e 1e+ e5 0x 0_7 0_8 -_1 1-2 1+2 1,000 1.2.3 ::1 1: :1 a:1 0b2 0o8 Infinity NaN NULLx nullx ~x""".split("\n")


def scalar_cases():
    """
    Plain scalars in a file: what type and value OmegaConf gives them. Left out, because they are
    refused here on purpose: !!binary, and 1 beside true as keys of one mapping, which Python merges.
    """
    for word in " ".join(SCALARS).split():
        yield "k: %s\n" % word
        yield "%s: v\n" % word
    for text in ["k:\n", "k: \n", "k: a b\n", "k: a  b\n", "k: |\n  x\n  y\n", "k: >\n  x\n  y\n", "k: |-\n  x\n", "k: 'a\n  b'\n", "k: a\n  b\n",
                 "k: [yes, 1e3, ~, '5']\n", "k: {1: a, 1.5: b, no: c, -1: d, 0x10: e}\n", "a: &x {p: 1, q: [1, 2]}\nb: *x\nc: {<<: *x, q: 3, r: 4}\n",
                 "a: &x {p: 1}\nb: &y {p: 2, r: 3}\nc:\n  s: 4\n  <<: [*x, *y]\n", "- 1\n- 2\n", "k: !!str 5\n", "k: !!int '5'\n", "k: !!float 5\n", "k: !!bool yes\n",
                 "k: !!set {a}\n", "k: !foo x\n", "k: !!null x\n", "k: 1\nk: 2\n", "? a\n: b\n", "? [a]\n: b\n", "~: b\n", "k: *x\n", "k: &x [*x]\n",
                 "a: 1\n---\nb: 2\n", "a: 1\n...\n", "%YAML 1.1\n---\na: 1\n", "a:\n\tb: 1\n", "a: 'x\n", "a: [1\n", "a: b: c\n", "a: 1\n b: 2\n", "a: 1\r\nb: yes\r\n"]:
        yield text


def writer_values():
    """Values for the writer: every kind of text that needs care, then random ones."""
    words = " ".join(SCALARS).split() + ["", " ", "a ", " a", "a b", "a  b", "a: b", "a #b", "a#b", "a:", "- a", "? a", ": a", "-", "?", ":", "a\tb", "\t", "a\nb", "\na", "a\n", "a\n\nb",
             "a \nb", "a\n b", "'", '"', "it's", 'say "x"', "a'b \"c\"", "\\", "a\\b", "\x01", "\x7f", "\x85", "\xa0", "\u2028", "\ufeff", "\U0001f600", "é", "日本語", "[a", "]a", "{a",
             "a]", "a,b", ",a", "!a", "!", "&", "*", "|", ">", "%", "@", "`", "---", "---a", "--- a", "...", "x" * 200, "word " * 40, "a" * 79 + " b c", "it's " * 30, "a\n" * 3 + "it's",
             "é " * 60, "\x01 " * 50, "long " * 30 + "\x02", "tab\t" + "word " * 30, "a" * 78 + "  b " + "c" * 30, "2024-1-1", "2024-01-01 1:02:03", "2024-1-1T1:02:03.5 +1:00", "1_0", "1__0", "0b1", "1:2"]
    for w in words:
        yield {"k": w}
        yield {w: 1}
        yield [w, {"x": w}]
    yield from [{}, [], {"a": {}}, {"a": []}, [[]], [[1, [2, [3]]], {"a": [1, {"b": 2}]}], {"a": [{"b": 1, "c": [2]}, {"d": {}}]}, {"a": {"b": {"c": [1]}}}, {"k" * 130: 1},
                {"k" * 123: 1}, {"k" * 122: 1}, {"k" * 130: [1]}, {"k" * 130: {"a": 1}}, {"": 1}, {"a\nb": 1}, {"a\nb": [1, {"c": "d\ne"}]}, {"f": [1.0, 0.1, 1e-5, 1e16, 1e22, -0.0, 123456789.0, 1.5e300]},
                {"i": [0, -1, 10**18, 10**30]}, {"b": [True, False, None]}]
    rng = random.Random(7)
    alphabet = "ab '\"#:-,[]{}&*!|>%@`?=~\\\n\t é\u2028 . 0 1 e _ y n <"
    for _ in range(250):
        yield {"k": "".join(rng.choice(alphabet) for _ in range(rng.randint(1, 12)))}
    for _ in range(60):
        yield {"k": {"deep": ["".join(rng.choice("abc  '\n\x01é") for _ in range(rng.randint(60, 220)))]}}


def to_yaml(value):
    return yaml.dump(value, default_flow_style=False, allow_unicode=True, sort_keys=False,
                     Dumper=omegaconf._utils.get_omega_conf_dumper())


def read_yaml(text):
    try:
        value = yaml.load(text, Loader=omegaconf._utils.get_yaml_loader())
        return {"yaml": OmegaConf.to_yaml(OmegaConf.create({} if value is None else value))}
    except Exception as e:
        return {"error": type(e).__name__}


def tree_cases(trees):
    """Cases on the small trees: every file as the primary, and overrides on some."""
    for tree, files in trees.items():
        for path in sorted(files):
            yield tree, path[:-5], []
    for primary in ["self55", "self56", "self57", "null66", "must", "exp69", "int68", "ovr62", "multi", "two", "nolist"]:
        for args in [["db=pg"], ["db=nope"], ["~db"], ["db=[pg,mysql]"], ["+db=pg"], ["db=null"], ["+srv=pg_srv"], ["+db@more=pg"]]:
            yield "db", primary, args
    for primary, args in [
        ("two", ["db@src=pg"]), ("two", ["db@nope=pg"]), ("two", ["~db@src"]), ("srv59", ["db@server.db=pg"]),
        ("srv59b", ["server/db=mysql"]), ("srv59", ["server=apache"]), ("exp69", ["exp=x"]), ("exp69", ["exp=x", "db=mysql"]),
        ("exp69", ["exp=noglobal"]), ("exp69", ["exp=add"]), ("exp69", ["exp=add", "srv=mysql_srv"]), ("exp69", ["exp=x", "server=apache"]),
        ("int68", ["db=pg", "srv=mysql_srv"]), ("hdr67", ["hdr=global"]), ("hdr67", ["hdr=gfoo"]), ("hdr67b", ["hdr@zzz=two"]), ("hdr67", ["hdr@foo.bar=two"]),
        ("missing", ["a=5"]), ("must", ["db=???"]), ("must", ["+db=pg"]), ("opt65", ["db=pg"]), ("opt65", ["db=nope"]),
        ("emptylist", ["+db=pg"]), ("nolist", ["+db=pg", "b.c=3"]), ("pkg", ["db@deep.er.db=pg"]), ("pkg", ["db=pg"]),
        ("file", ["db/mysql=pg"]), ("abs", ["server@srv2=s"]), ("abs", ["db=pg"]), ("optlist", ["db=pg"]),
    ]:
        yield "db", primary, args
    for primary, args in [
        ("main", ["a=text"]), ("main", ["key=x"]), ("main", ["c.y=${a}"]), ("main", ["+aa='${oc.env:AQ_ORACLE_VAR}'"]), ("main", ["+aa='${c.${key}}'"]),
        ("main", ["+aa=${c.${key}}"]), ("main", ["+aa='\\${a}'"]), ("main", ["+aa=${oc.env:AQ_NOT_SET,12}"]), ("main", ["~b=1"]), ("main", ["~d"]), ("main", ["+b=2"]),
        ("main", ["d.x=3"]), ("main", ["+d.x=3"]), ("main", ["+aa=${oc.decode:'a: b'}"]), ("main", ["+aa=${oc.dict.keys:a}"]), ("main", ["+aa=${oc.dict.keys:nope}"]),
        ("main", ["~d.y"]), ("hyd", ["+z=1", "a=2"]), ("main", ["+aa=${oc.select:a.b.c,5}"]), ("main", ["+aa=${.a}"]), ("main", ["+aa=${...a}"]),
    ]:
        yield "interp", primary, args
    for args in [["k.x=5"], ["k.y=[9]"], ["k.y.0=9"], ["k={x: 7}"], ["k={x: {a: 1}}"], ["k.z={a: 1}"], ["g=b"], ["g=[b,a]"], ["+k.y=[4]"],
                 ["+k={q: 1}"], ["k.-1=2"], ["+g@h=b"], ["k.s.t=1"], ["~k.y"], ["~k.z"], ["~k.x=1"], ["~k.x=true"], ["~k.y=[1,2]"], ["~k.y=[2,1]"]]:
        yield "merge", "one", args


SWEEPS = [
    ["quant_pair=wfp4_afp8,wfp8_afp8", "dataset.size=small,medium"], ["quant_pair=glob(*,exclude=wfp*)"],
    ["quant_pair=glob([wfp4*,wint8_aint8],exclude=[*aint*])"], ["autoquant.batch_size=range(1,4)"], ["+x=[1,2],[3]"],
    ["dataset.size=large,small", "+y=1"], ["+x=range(4,5,0.5)"], ["+x=range(0,1,0.1)"], ["+x=range(1,0,-0.25)"], ["+x=range(0.1,1.0,0.3)"], ["+x=range(5)"],
    ["+x=range(5,1,-2)"], ["+x=range(1,5,0)"], ["+x=range(1.5)"], ["+x=range(0,3,1e-1)"], ["+x=range(-1,1,0.2)"], ["+x=range(1e3,1.2e3,50)"],
    ["+x=choice(a,b)"], ["+x=choice('a,b',\"c d\",1,null)"], ["+x=choice('a,b','c',1.5,true)"], ["+x='a,b',c"], ["+x=a\\,b,c"], ["+x={a:1},{b:2}"],
    ["+x=[a,'b c'],\"d\""], ["+x=1,2", "+y=3,4", "+x=5,6"], ["+x=1", "+x=2,3"], ["+x=1,1"], ["+x=interval(1,2)"], ["hydra.job.name=a,b"],
    ["+x=sort(3,1,2)"], ["+x=sort(3,1,2,reverse=true)"], ["+x=sort(choice(b,a))"], ["+x=sort(range(3,1,-1))"], ["+x=sort(range(1,4),reverse=true)"], ["+x=tag(t1,t2,choice(a,b))"],
    ["+x=int(choice(1.5,2.5))"], ["+x=str(1,2)"], ["+x=float(range(1,3))"], ["+x=str(range(1,3))"], ["+x=choice(choice(a,b))"], ["+x=choice()"], ["+x=int(1.5,2.5)"],
    ["+x=glob(*)"], ["dataset=glob(*)"], ["dataset=glob('*captions')"], ["hardware=glob([s*])"], ["hardware=glob(x*)"], ["autoquant=glob(*_default)"], ["quant_pair=glob(w[fi]*8_a?p8)"],
    ["~hardware", "dataset.size=small,large"], ["+x=a b,c d"], ["+x=a:b,c=d"], ["+x=true,null,1.0"], ["+x='it\\'s',\"q\\\"\""], ["+x='\\\\',b"], ["+x=é,b"], ["+x='é',b"],
    ["+x=${experiment},b"], ["+x=1,2", "~hardware=single_gpu"], ["dataset.size=small"], ["++x=1,2", "+x=3"], ["+x=inf,nan,-1e-7"], ["+x=1e16,1e15,123456789.0"],
]


def resolved_yaml(conf_dir, primary, args):
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_dir=conf_dir, version_base="1.3", job_name="aq"):
        cfg = compose(config_name=primary, overrides=args, return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        with open_dict(cfg):
            del cfg["hydra"]
        plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
        return to_yaml(plain)


def outcome(conf_dir, primary, args, digest):
    try:
        text = resolved_yaml(conf_dir, primary, args)
    except Exception as e:  # any refusal is one: the classes are Hydra's own
        return {"error": type(e).__name__}
    if digest:
        return {"sha256": hashlib.sha256(text.encode()).hexdigest()}
    return {"yaml": text}


def jobs_of(conf_dir, args):
    loader = ConfigLoaderImpl(create_config_search_path(conf_dir))
    try:
        parsed = OverridesParser.create(config_loader=loader).parse_overrides(args)
        for o in parsed:
            if o.is_sweep_override() and o.is_hydra_override():
                raise ValueError("sweep over hydra")
        jobs = BasicSweeper.split_arguments(parsed, None)[0]
    except Exception as e:
        return {"error": type(e).__name__}
    return {"jobs": jobs}


def write(name, cases):
    path = os.path.join(OUT, name)
    versions = {"hydra-core": hydra.__version__, "omegaconf": omegaconf.__version__, "pyyaml": yaml.__version__}
    with open(path, "w") as f:
        f.write(json.dumps(versions) + "\n")
        for case in cases:
            f.write(json.dumps(case) + "\n")
    print("%s: %d cases, %d refused" % (name, len(cases), sum("error" in c for c in cases)))


def main():
    conf = os.path.join(ROOT, "conf")
    with open(os.path.join(OUT, "trees.json")) as f:
        trees = json.load(f)
    base = resolved_yaml(conf, PRIMARY, [])
    cases = []
    for primary, args in conf_cases():
        case = {"primary": primary, "args": args, **outcome(conf, primary, args, False)}
        # +x=... changes nothing else: only what follows the common part is kept
        if case.get("yaml", "").startswith(base) and primary == PRIMARY:
            case["added"] = case.pop("yaml")[len(base):]
        elif "yaml" in case:
            case["sha256"] = hashlib.sha256(case.pop("yaml").encode()).hexdigest()
        cases.append(case)
    with tempfile.TemporaryDirectory() as tmp:
        shutil.copytree(conf, os.path.join(tmp, "conf"))
        shutil.copy(os.path.join(conf, "preset", "demo.yaml"), os.path.join(tmp, "conf", "demo_at_root.yaml"))
        for args in append_cases():
            cases.append({"primary": "preset/demo", "args": args, **outcome(os.path.join(tmp, "conf"), "demo_at_root", args, True)})
    write("conf.jsonl", cases)
    cells = itertools.product(options("quant_pair"), options("quant_granularity"), SIZES)
    write("cells.jsonl", [{"cell": list(c), **outcome(conf, PRIMARY, ["quant_pair=%s" % c[0], "quant_granularity=%s" % c[1],
                                                                     "dataset.size=%s" % c[2]], True)} for c in cells])
    with tempfile.TemporaryDirectory() as tmp:
        for tree, files in trees.items():
            for path, text in files.items():
                full = os.path.join(tmp, tree, path)
                os.makedirs(os.path.dirname(full), exist_ok=True)
                with open(full, "w") as f:
                    f.write(text)
        write("trees.jsonl", [{"tree": t, "primary": p, "args": a, **outcome(os.path.join(tmp, t), p, a, False)}
                              for t, p, a in tree_cases(trees)])
    write("scalars.jsonl", [{"text": t, **read_yaml(t)} for t in scalar_cases()])
    write("writer.jsonl", [{"value": v, "yaml": to_yaml(v)} for v in writer_values()])
    write("sweeps.jsonl", [{"args": a, **jobs_of(conf, a)} for a in SWEEPS])


if __name__ == "__main__":
    sys.exit(main())
