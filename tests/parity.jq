# scores.json of all rows (-s) against $v[0][$m]. A group is strict if its rounding ties can move it by less than the
# tolerance. Gives how many are and are not, the worst difference of both and of a row's sum, and what is beyond:
# groups, and rows that rank their groups otherwise.
def relative($a; $b): if $a == $b then 0 else ($a - $b | fabs) / ([$a, $b] | map(fabs) | max) end;
# Groups below each group; those that their slack may swap are left out.
def below($scores; $slack): [$scores | to_entries[] | . as $x |
    [$scores | to_entries[] | select(.value * (1 + $slack[.key]) < $x.value * (1 - $slack[$x.key])) | .key]];
$v[0] as $want
# In kl_div the noise of the logits adds to the divergence as one length to another: twice the root of their ratio.
| def noise($score): if $m == "kl_div" and $score > 0 then 2 * ($want.kl_noise / $score | sqrt) else 0 end;
[range(length) as $row | .[$row] as $s | $want[$m][$row] as $w | range($want.groups | length) as $g
   | ($w.ties[$g]? // 0) as $ties | $w.scores[$g] as $x | $s.groups[$g].per_batch_mean as $y
   | {$row, group: $want.groups[$g], name: $s.groups[$g].name, w: $w.w, a: $w.a, $ties, want: $x, found: $y,
      strict: ($ties < $tolerance), off: relative($x; $y),
      allowed: (noise($x) + if $ties < $tolerance then $tolerance else $tolerance + $ties end)}] as $all
| [range(length) as $row | [$all[] | select(.row == $row)]] as $rows
| {strict: ([$all[] | select(.strict)] | length), tied: ([$all[] | select(.strict | not)] | length),
   worst_strict: ([$all[] | select(.strict) | .off] | max), worst_tied: ([$all[] | select(.strict | not) | .off] | max),
   worst_sum: ([$rows[] | relative(map(.want) | add; map(.found) | add)] | max),
   bad: [$all[] | select(.off > .allowed or .group != .name)],
   order: [$rows[] | map(.found) as $found
      | select([below(map(.want); map(.allowed)) | to_entries[] | .key as $x | .value[] | select($found[.] >= $found[$x])]
               != []) | .[0].row]}
