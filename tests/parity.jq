# scores.json of all rows (-s) against $v[0][$m]: groups compared, those whose rounding ties allow more than the
# tolerance, the worst difference of the others, what is beyond, and rows that rank their groups otherwise.
def relative($a; $b): if $a == $b then 0 else ($a - $b | fabs) / ([$a, $b] | map(fabs) | max) end;
# Groups by score; those that ties may swap count as equal.
def ranks($scores; $slack): [$scores | to_entries[] | . as $x |
    [$scores | to_entries[] | select(.value * (1 + $slack[.key]) < $x.value * (1 - $slack[$x.key])) | .key]];
$v[0] as $want
| [range(length) as $i | .[$i] as $s | $want[$m][$i] as $w | range($want.groups | length) as $g
   | ($w.ties[$g]? // 0) as $ties | $w.scores[$g] as $x | $s.groups[$g].per_batch_mean as $y
   | {row: $i, group: $want.groups[$g], name: $s.groups[$g].name, w: $w.w, a: $w.a, ties: $ties, want: $x, found: $y,
      off: relative($x; $y),
      allowed: ($tolerance + $ties + if $m == "kl_div" and $x > 0 then 2 * ($want.kl_noise / $x | sqrt) else 0 end)}]
    as $all
| [range(length) as $i | [.[$i].groups[].per_batch_mean] as $found | $want[$m][$i] as $w
   | [$all[] | select(.row == $i) | .allowed] as $slack
   | select([ranks($w.scores; $slack) | to_entries[] | .key as $x | .value[] | select($found[.] >= $found[$x])] != [])
   | $i] as $order
| {groups: ($all | length), tied: ([$all[] | select(.ties > $tolerance)] | length),
   worst: ([$all[] | select(.ties <= $tolerance) | .off] | max),
   bad: [$all[] | select(.off > .allowed or .group != .name)], $order}
