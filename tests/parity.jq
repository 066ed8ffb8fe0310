# scores.json of all rows (-s) against $v[0][$m]. A group is strict if rounding ties and float32 noise can move it by
# less than half the tolerance, else loose: allowed that on top. Gives how many are either (and how many weight-only
# ones are strict), the worst difference of each and of a row's sum, and what is beyond: groups, rows by their sum,
# and rows that rank their groups otherwise. Shift: what a score lacks that was taken with other codes of some weights.
def relative($a; $b): if $a == $b then 0 else ($a - $b | fabs) / ([$a, $b] | map(fabs) | max) end;
# Groups below each group; those that their allowances may swap are left out.
def below($scores; $slack): [$scores | to_entries[] | . as $x |
    [$scores | to_entries[] | select(.value * (1 + $slack[.key]) < $x.value * (1 - $slack[$x.key])) | .key]];
$v[0] as $want
# The noise of kl_div's logits adds to the divergence as one length to another: twice the root of their ratio. Both programs
# have it, independently: their squares add.
| def logits($score): if $m == "kl_div" and $score > 0 then 2 * (2 * $want.kl_noise / $score | sqrt) else 0 end;
[range(length) as $row | .[$row] as $s | $want[$m][$row] as $w | range($want.groups | length) as $g
   | ($w.scores[$g] * (1 + ($w.shift[$g]? // 0))) as $x | $s.groups[$g].per_batch_mean as $y
   # Four times the size of one program's noise: three deviations of the difference of two.
   | (($w.ties[$g]? // 0) + 4 * ($w.noise[$g]? // 0) + logits($x)) as $slack
   | {$row, group: $want.groups[$g], name: $s.groups[$g].name, w: $w.w, a: $w.a, $slack, want: $x, found: $y,
      off: relative($x; $y), strict: ($slack < $tolerance / 2),
      allowed: ($tolerance + if $slack < $tolerance / 2 then 0 else $slack end)}] as $all
| [range(length) as $row | [$all[] | select(.row == $row)]] as $rows
| {strict: ([$all[] | select(.strict)] | length), loose: ([$all[] | select(.strict | not)] | length),
   weight_only: ([$all[] | select(.a == "none" and .strict)] | length),
   worst_strict: ([$all[] | select(.strict) | .off] | max),
   worst_loose: ([$all[] | select(.strict | not) | .off] | max),
   worst_sum: ([$rows[] | relative(map(.want) | add; map(.found) | add)] | max),
   # The groups' slacks are independent: their squares add.
   sums: [$rows[] | select(relative(map(.want) | add; map(.found) | add)
                           > $tolerance + (map(.want * .slack | . * .) | add | sqrt) / (map(.want) | add)) | .[0].row],
   bad: [$all[] | select(.off > .allowed or .group != .name)],
   order: [$rows[] | map(.found) as $found
      | select([below(map(.want); map(.allowed)) | to_entries[] | .key as $x | .value[]
                | select($found[.] >= $found[$x])] != []) | .[0].row]}
