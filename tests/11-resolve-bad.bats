#!/usr/bin/env bats
# aq-resolve and bad input: configuration files, overrides, files and directories. Numbers are
# those of the battery of bad inputs.
load helpers

setup() {
    cd "$BATS_TEST_TMPDIR" || return 1
    cp -R "$REPO/conf" conf
    unset AQ_CONF
}

# yaml TEXT: the body of an option that is then chosen as hardware=bad. No newline is added.
yaml() {
    printf '%b' "$1" >conf/hardware/bad.yaml
}

# bad STATUS TEXT: what hardware=bad gives
bad() {
    refused "$1" "$2" timeout 100 aq-resolve hardware=bad
}

# The same in 50 MB of memory.
small_bad() {
    sanitized || ulimit -v 50000
    bad "$@"
}

# Processor time of all children so far, in milliseconds.
spent() {
    times >times.txt
    awk -F'[ms ]+' 'NR == 2 { print int(($1 * 60 + $2 + $3 * 60 + $4) * 1000) }' times.txt
}

# quick COMMAND...: within two seconds of processor time, sanitizers included
quick() {
    local before ms
    before=$(spent)
    "$@" || return 1
    ms=$(($(spent) - before))
    [ "$ms" -lt 2000 ] || { echo "took $ms ms"; return 1; }
}

@test "91: no tree, no primary, no group, no option" {
    refused 2 "could not find 'quant_pair/wfp8_afp9'" aq-resolve quant_pair=wfp8_afp9
    has "$stderr" "did you mean wfp8_afp8?"
    refused 2 "could not override 'quant_pairs': there is no such key" aq-resolve quant_pairs=x
    has "$stderr" "did you mean quant_pair?"
    refused 2 "there is no such group" aq-resolve quant/pair=x
    refused 2 "cannot find the primary configuration 'preset/nope'" aq-resolve --config-name preset/nope
    has "$stderr" "demo, lm_sensitivity, qwen3_lm_sensitivity"
    refused 2 "'nowhere'" aq-resolve --config-dir nowhere
    AQ_CONF=nowhere refused 2 "'nowhere'" aq-resolve
    sed -i 's/quant_pair: wfp8_afp8/quant_pair: gone/' conf/preset/demo.yaml
    refused 3 "conf/preset/demo.yaml:6: in 'preset/demo': could not find 'quant_pair/gone'" aq-resolve --config-name preset/demo
    rm -r conf
    mkdir empty
    AQ_CONF=empty refused 2 "cannot find the primary configuration" aq-resolve
}

@test "92: option names never leave the tree, and nothing outside is opened" {
    printf 'name: stolen\n' >stolen.yaml
    local name
    for name in ../../stolen ../stolen /etc/passwd a/../../../stolen .. . a//b ./x; do
        refused 2 "" aq-resolve "quant_pair=$name"
        refused 2 "" aq-resolve "quant_pair='$name'"
    done
    refused 2 "" aq-resolve quant_pair=
    refused 2 "" aq-resolve "quant_pair=$(printf 'x%.0s' {1..4096})"
    refused 2 "" aq-resolve "quant_pair='a"$'\n'"b'"
    refused 2 "" aq-resolve --config-name ../stolen
    refused 2 "" aq-resolve --list ../conf
    refused 2 "" aq-resolve quant_pair.format_name=../stolen
    refused 2 "" aq-resolve model=../model/qwen3_8b
    yaml 'defaults:\n  - ../../stolen\n'
    bad 3 "is not the name of a configuration"
    yaml 'defaults:\n  - //etc/passwd\n'
    bad 3 "is not the name of a configuration"
    if command -v strace >/dev/null; then
        strace -f -o trace -e trace=openat,open,stat,newfstatat aq-resolve quant_pair=../../stolen 2>/dev/null || true
        run ! grep -E 'stolen|\.\./' trace
    fi
}

@test "94: defaults lists that include each other" {
    yaml 'defaults:\n  - bad\n'
    bad 3 "include each other: 'hardware/bad' -> 'hardware/bad'"
    yaml 'defaults:\n  - bad2\n'
    printf 'defaults:\n  - bad3\n' >conf/hardware/bad2.yaml
    printf 'defaults:\n  - bad\n' >conf/hardware/bad3.yaml
    bad 3 "'hardware/bad' -> 'hardware/bad2' -> 'hardware/bad3' -> 'hardware/bad'"
    yaml 'defaults:\n  - _self_\n  - _self_\nx: 1\n'
    bad 3 "duplicate _self_"
    local i
    for i in {1..200}; do printf 'defaults:\n  - c%d\nx%d: 1\n' $((i + 1)) "$i" >"conf/hardware/c$i.yaml"; done
    printf 'x201: 1\n' >conf/hardware/c201.yaml
    aq 0 aq-resolve hardware=c1 --show hardware.x201
    is "$output" 1
    for i in {201..300}; do printf 'defaults:\n  - c%d\n' $((i + 1)) >"conf/hardware/c$i.yaml"; done
    refused 3 "nested too deeply" aq-resolve hardware=c1
}

@test "95: layout of a file: file, line, column, and the line itself" {
    yaml 'a: 1\nb:\n\tc: 2\n'
    bad 3 "conf/hardware/bad.yaml:3:"
    yaml 'a: 1\n b: 2\n'
    bad 3 "conf/hardware/bad.yaml:2:3: "
    has "$stderr" "in ' b: 2'"
    yaml "a: 'x\n"
    bad 3 "conf/hardware/bad.yaml:2:1: "
    yaml 'a: [1, 2\n'
    bad 3 "conf/hardware/bad.yaml:2:1: "
    yaml 'key:value\n'
    bad 3 "conf/hardware/bad.yaml:1: expected a mapping, found a string"
    yaml '- 1\n'
    bad 3 "conf/hardware/bad.yaml:1: expected a mapping, found a list"
}

@test "96: a duplicate key, with both lines" {
    yaml 'a: 1\nb: 2\na: 3\n'
    bad 3 "conf/hardware/bad.yaml:3:1: duplicate key 'a', first set in line 1"
    yaml 'a: {x: 1, "x": 2}\n'
    bad 3 "duplicate key 'x'"
}

@test "97, 98: aliases: undefined, cyclic, exploding" {
    yaml 'a: *b\n'
    bad 3 "undefined alias"
    yaml 'a: &a [*a]\n'
    bad 3 "contains itself"
    yaml 'a: &a {b: {c: *a}}\n'
    bad 3 "contains itself"
    { printf 'a0: &a0 [x,x,x,x,x,x,x,x,x]\n'; for i in {1..9}; do printf 'a%d: &a%d [%s]\n' "$i" "$i" "$(for _ in {1..9}; do printf '*a%d,' $((i - 1)); done)"; done; } >conf/hardware/bad.yaml
    quick bad 3 "too many nodes after expanding aliases"
    (small_bad 3 "too many nodes after expanding aliases")
    { printf 'a0: &a0 {k: 1}\n'; for i in {1..30}; do printf 'a%d: &a%d {x: *a%d, y: *a%d}\n' "$i" "$i" $((i - 1)) $((i - 1)); done; } >conf/hardware/bad.yaml
    quick bad 3 "too many nodes after expanding aliases"
}

@test "100: deep nesting is refused at once" {
    head -c 100000 /dev/zero | tr '\0' '[' >conf/hardware/bad.yaml
    quick bad 3 "nested too deeply (limit 128)"
    (small_bad 3 "nested too deeply (limit 128)")
    yes -- '- ' | head -n 300000 | tr -d '\n' >conf/hardware/bad.yaml
    quick bad 3 "nested too deeply (limit 128)"
    awk 'BEGIN { for (i = 0; i < 2000; i++) { for (j = 0; j < i; j++) printf " "; print "a:" } }' >conf/hardware/bad.yaml
    quick bad 3 "nested too deeply (limit 128)"
    (ulimit -s 512 && aq 3 timeout 100 aq-resolve hardware=bad)
}

@test "101: documents" {
    yaml 'a: 1\n---\nb: 2\n'
    bad 3 "expected one document, found a second"
    yaml '...\n'
    bad 3 "conf/hardware/bad.yaml:1:1: "
    local text
    for text in '---\n' '' '# x\n' '---\n...\n'; do
        yaml "$text"
        aq 0 aq-resolve hardware=bad --show hardware
        is "$output" "{}"
    done
}

@test "102: tags are inert and refused" {
    local tag
    for tag in '!!python/object:os.system x' '!!binary aGk=' '!foo x' '!!int x' '!!set {a}' '!!timestamp 2001-01-01'; do
        yaml "a: $tag\n"
        bad 3 "conf/hardware/bad.yaml:1:4: "
    done
}

@test "104: encodings" {
    yaml 'a: 1\r\nb: x\r\n'
    aq 0 aq-resolve hardware=bad --show hardware.b
    is "$output" x
    yaml '\xef\xbb\xbfa: 1\n'
    aq 0 aq-resolve hardware=bad --show hardware.a
    is "$output" 1
    yaml 'a: caf\xe9\n'
    bad 3 "conf/hardware/bad.yaml:1:7: invalid UTF-8"
    yaml '\xff\xfea\x00:\x00 \x001\x00'
    bad 3 "conf/hardware/bad.yaml:1:1: invalid UTF-8"
    yaml 'a: 1\nb: x\x00y\n'
    bad 3 "conf/hardware/bad.yaml:2:5: "
    yaml 'a: "\\0"\n'
    bad 3 "must not contain NUL"
    yaml "$(printf 'k%.0s' {1..1025}): 1\n"
    bad 3 "conf/hardware/bad.yaml:1:"
}

@test "a huge file is refused before it is parsed" {
    truncate -s 17M conf/hardware/bad.yaml
    quick bad 3 "larger than the limit"
}

@test "105: interpolations" {
    refused 2 "x: interpolation key 'nope' not found" aq-resolve '+x=${nope}'
    refused 2 "leads back to itself" aq-resolve '+x=${x}'
    refused 2 "x: y: x: the interpolation leads back to itself" aq-resolve '+x=${y}' '+y=${x}'
    refused 2 "unsupported interpolation type 'env'" aq-resolve '+x=${env:HOME}'
    refused 2 "unsupported interpolation type 'foo'" aq-resolve '+x=${foo:bar}'
    refused 2 "an interpolation is not closed" aq-resolve '+x=${a'
    refused 2 "expected '}'" aq-resolve "+x='\${experiment'"
    refused 2 "environment variable 'NOPE' not found" aq-resolve '+x=${oc.env:NOPE}'
    refused 2 "names a mapping that contains it" aq-resolve '+a.b=${a}'
    aq 0 aq-resolve '+x=\${y}' --show x
    is "$output" '${y}'
    aq 0 aq-resolve "+x='\${dataset.\${y}}'" +y=size --show x
    is "$output" large
    yaml 'a: ${nope.x}\n'
    bad 3 "hardware.a: interpolation key 'nope.x' not found"
    yaml "$(for i in {1..10000}; do printf 'k%d: ${.k%d}\\n' "$i" $((i + 1)); done)k10001: 1\n"
    quick bad 3 "nested too deeply (limit 64)"
    yaml "$(printf 'a0: xxxxxxxxxxxxxxxx\\n'; for i in {1..40}; do printf 'a%d: ${.a%d}${.a%d}\\n' "$i" $((i - 1)) $((i - 1)); done)"
    quick bad 3 ""
    yaml "$(printf 'a0: {x: 1}\\n'; for i in {1..40}; do printf 'a%d: {x: "${hardware.a%d}", y: "${hardware.a%d}"}\\n' "$i" $((i - 1)) $((i - 1)); done)"
    quick bad 3 "too many interpolations"
}

@test "106: a mandatory value that was not given" {
    refused 2 "'experiment' is still ??? and needs a value" aq-resolve experiment=???
    yaml 'a: ???\n'
    bad 3 "'hardware.a' is still ??? and needs a value"
    has "$stderr" "hardware.a=VALUE"
    sed -i 's/quant_pair: wfp8_afp8/quant_pair: ???/' conf/preset/demo.yaml
    refused 3 "you must specify 'quant_pair'" aq-resolve --config-name preset/demo
    has "$stderr" "wfp8_afp8"
}

@test "107: keys of overrides" {
    local o
    for o in = =1 a==b .a=1 a.=1 'a[0]=1' 'a b=1' 1a=1 -- +=1 +++a=1 '~' '~=1' a/=1 /a=1 a@b/c=1 'é=1' x; do
        aq 2 aq-resolve -- "$o" || { echo "override: $o"; return 1; }
        is "$output" "" && [ "$(wc -l <<<"$stderr")" -le 2 ]
    done
    refused 2 "could not override 'dataset.siz': there is no such key" aq-resolve dataset.siz=small
    has "$stderr" "did you mean size?" && has "$stderr" "+dataset.siz=small"
    refused 2 "an item is already there" aq-resolve +dataset.size=x
    has "$stderr" "'++dataset.size=x'"
    refused 2 "could not delete 'dataset.nope': it does not exist" aq-resolve '~dataset.nope'
    refused 2 "its value is large and not small" aq-resolve '~dataset.size=small'
    refused 2 "nested too deeply" aq-resolve "+$(printf 'a.%.0s' {1..1000})b=1"
    refused 2 "must be a string or a list" aq-resolve quant_pair=5
    aq 0 aq-resolve dataset.size= --show dataset.size
    is "$output" ""
}

@test "108: values of overrides: the column of what is wrong" {
    refused 2 "override '+x=a#b': this character needs quotes at column 5" aq-resolve '+x=a#b'
    refused 2 "this quote is not closed at column 4" aq-resolve "+x='a"
    refused 2 "at its end" aq-resolve '+x={a:1'
    refused 2 "at column 6" aq-resolve '+x=[1}'
    refused 2 "not valid UTF-8" aq-resolve $'+x=\xff'
    refused 2 "longer than 65536 bytes" aq-resolve "+x=$(head -c 70000 /dev/zero | tr '\0' a)"
    refused 2 "nested too deeply" aq-resolve "+x=$(head -c 5000 /dev/zero | tr '\0' '[')"
    aq 0 aq-resolve "+x='a; \$(touch pwned) \`touch pwned\`'" --show x
    is "$output" 'a; $(touch pwned) `touch pwned`'
    [ ! -e pwned ]
    refused 2 "unknown function 'foo'" aq-resolve '+x=foo(1)'
    has "$stderr" "available: bool, choice"
    aq 0 aq-resolve '+x=${oc.env:AQ_NO,"é: #"}' --show x || true
}

@test "messages show no raw control characters" {
    aq 2 aq-resolve $'quant_pair=\'\e[2J\a\''
    [[ $stderr != *$'\e'* && $stderr != *$'\a'* ]]
    yaml 'a: 1\n\x1b[2J: 2\n'
    aq 3 aq-resolve hardware=bad
    [[ $stderr != *$'\e'* ]]
}

@test "110: ten thousand overrides, two thousand options" {
    quick refused 2 "more than 10000 overrides" aq-resolve $(printf 'x=%d ' {1..10001})
    quick aq 0 aq-resolve -q $(printf '+x%d=1 ' {1..10000}) --show x10000
    is "$output" 1
    (cd conf/hardware && for i in {1..2000}; do : >"o$i.yaml"; done)
    quick aq 0 aq-resolve hardware=o1999 --show hardware
    refused 2 "could not find" aq-resolve hardware=o2001
    quick refused 2 "more than 65536 jobs" aq-resolve -m '+x=range(0,1000)' '+y=range(0,1000)'
    quick refused 2 "too many values (limit 65536)" aq-resolve -m '+x=range(0,100000000000)'
    quick refused 2 "too many values (limit 65536)" aq-resolve -m '+x=range(0,1e300)'
}

@test "112: values of a wrong type or out of range: key, value, expectation" {
    refused 2 "autoquant.effective_bits: expected a number above 0 and at most 16, found the string 'abc'" aq-resolve autoquant.effective_bits=abc
    local o
    for o in autoquant.effective_bits={0,-1,17,1e999,nan,null,true,[8]} autoquant.batch_size={0,-1,1.5,x,null,99999999999} \
        autoquant.score_size={0,x} dataset.calib_seq_len={0,-5,x} dataset.max_calib_samples={0,-1,x,1.5} dataset.size={nope,[a],5,..} \
        autoquant.method=foo autoquant.device={gpu,cuda:x,cuda:-1} autoquant.normalization=x autoquant.cost=x autoquant.solver=x \
        autoquant.fp4_block=32 autoquant.monotone=yes autoquant.include_lm_head={true,x} autoquant.moe_split={1,x} autoquant.operand_rounding=x autoquant.disabled_layers={x,[1]} dataset.padding=x \
        model.dtype=int8 model.name={a/b,..,5} quant_pair.name=x/y quant_pair.format_name=nope quant_pair.experimental=1 quant_pair=[] \
        output_layout.mode=foo runner.output_dir=5 runner.report_only=1 dataset=5 autoquant=[] experiment=a/b \
        quant_granularity.quant_cfg_overrides=5 dataset.size_to_max_samples=5 dataset.size_to_max_samples.large={0,x} ~quant_granularity ~autoquant ~model; do
        aq 2 aq-resolve -q "$o" || { echo "override: $o"; return 1; }
        is "$output" "" && [ "$(wc -l <<<"$stderr")" -le 2 ]
    done
    refused 2 "unknown dataset.size 'nope'" aq-resolve dataset.size=nope
    has "$stderr" "large, medium, small"
    refused 2 "unknown format 'FP8_DEFAULT' (quant_pair.format_name)" aq-resolve quant_pair.format_name=FP8_DEFAULT
    has "$stderr" "did you mean FP8_DEFAULT_CFG?"
    refused 2 "x: infinity cannot be written as JSON" aq-resolve +x=inf
    refused 2 "found the string 'foo'" aq-resolve autoquant.method=foo
    has "$stderr" "gradient, kl_div"
    sed 's/format_name/fomat_name/' conf/quant_pair/wfp8_afp8.yaml >conf/quant_pair/typo.yaml
    refused 3 "the configuration has no 'quant_pair.format_name', which 'conf/quant_pair/typo.yaml' should set" aq-resolve quant_pair=typo
    has "$stderr" "is 'fomat_name' meant to be 'format_name'?"
    sed -i 's/^batch_size: 8.*/batch_size: many/' conf/autoquant/gradient_default.yaml
    refused 3 "conf/autoquant/gradient_default.yaml:4: autoquant.batch_size: expected an integer" aq-resolve
}

@test "113: depfiles name what make would misread, or are refused" {
    local d
    printf 'include deps.mk\nout.json:\n\t@echo made; touch $@\n' >Makefile
    for d in 'd $x: #1' 'a*b?[c]' 'a\b' 'a\ b' 'a\#b\:c' "a'b" 'a"b!,@^+' 'a`touch canary`b'; do
        mkdir -p "$d/hardware"
        cp conf/hardware/single_gpu.yaml "$d/hardware/odd.yaml"
        aq 0 aq-resolve -q --config-dir "$d" hardware=odd -o out.json --depfile deps.mk
        touch -d '+1 minute' out.json
        aq 0 make -s
        is "$output" ""
        touch -d '+2 minutes' "$d/hardware/odd.yaml"
        aq 0 make -s
        is "$output" made
        rm -r "$d"
        aq 0 make -s # its former user is made again
        is "$output" made
    done
    for d in $'n\nl' $'n\rl' 'a;touch canary;b' 'a;b' 'a|b' 'a=b' 'a&' 'a%b' '$(shell touch canary)x' '~a'; do
        mkdir -p "./$d/hardware" && : >"./$d/hardware/odd.yaml"
        refused 3 "a make rule cannot name the file" aq-resolve -q --config-dir "$d" hardware=odd -o x.json --depfile deps2.mk
        [ ! -e deps2.mk ]
    done
    aq 0 aq-resolve -q -o 'out $x #1.json' --depfile deps.mk
    has "$(<deps.mk)" 'out\ $$x\ \#1.json:'
    refused 3 "a make rule cannot name the file" aq-resolve -q -o 'x;y.json' --depfile deps.mk
    [ ! -e canary ]
}

@test "175-178: a product is whole or not there" {
    [ -e /dev/full ] || skip "no /dev/full"
    run --separate-stderr bash -c "aq-resolve -q >/dev/full"
    is "$status" 1 && has "$stderr" "cannot write"
    run --separate-stderr bash -c "set -o pipefail; aq-resolve -q -m 'quant_pair=glob(*,exclude=*only)' 'quant_granularity=glob(*)' | head -c 10 >/dev/null"
    is "$status" 1 && has "$stderr" "cannot write"
    echo old >run.json
    refused 1 "" aq-resolve -q -o nodir/run.json
    refused 1 "it is a directory" aq-resolve -q -o conf
    refused 2 "" aq-resolve quant_pair=nope -o run.json
    is "$(<run.json)" old
    (ulimit -f 1 && refused 1 "run.json" aq-resolve -q -o run.json)
    is "$(<run.json)" old
    is "$(find . -name '.aq-*' | wc -l)" 0
    aq 0 aq-resolve -q -o /dev/null
    (umask 077 && aq-resolve -q -o private.json)
    is "$(stat -c %a private.json)" 600
}

@test "unreadable and vanishing files" {
    mkdir conf/hardware/dir.yaml
    refused 2 "could not find 'hardware/dir'" aq-resolve hardware=dir
    ln -s nowhere conf/hardware/dangling.yaml
    refused 2 "could not find 'hardware/dangling'" aq-resolve hardware=dangling
    mkfifo conf/hardware/fifo.yaml
    refused 2 "could not find 'hardware/fifo'" timeout 5 aq-resolve hardware=fifo
    if [ "$(id -u)" -eq 0 ] && command -v setpriv >/dev/null; then
        chmod 000 conf/hardware/single_gpu.yaml
        chmod 755 "$BATS_TEST_TMPDIR"
        if setpriv --reuid 65534 --clear-groups test -r conf/hardware; then
            refused 1 "cannot open 'conf/hardware/single_gpu.yaml'" setpriv --reuid 65534 --clear-groups "$BIN/aq-resolve"
        fi
    fi
}

@test "185, 191: odd names, an empty environment" {
    mkdir -p 'odd $d "x"'
    aq 0 aq-resolve -q -o 'odd $d "x"/-r n.json'
    aq 0 aq-resolve -q -m --dir 'odd $d "x"' dataset.size=small
    aq 0 env -i "$BIN/aq-resolve" -q
    aq 0 env -i TZ=Odd/Zone COLUMNS=1 TERM=dumb POSIXLY_CORRECT=1 "$BIN/aq-resolve" -q '+x=${now:%Y}'
    refused 2 "" aq-resolve -q '+x=${now:%}' || aq 0 aq-resolve -q '+x=${now:%}'
}
