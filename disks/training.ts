/**
 * Work of the kinds that people do, for the builder to see which code is hot (hot-code.ts). Nothing here is to be measured by a benchmark.
 */

export const TRAINING: readonly string[] = [
  `for i in 1 2 3 4 5 6 7 8 9 10 11 12; do ls -la /usr/bin > /tmp/ls; grep -c root /etc/passwd; cat /tmp/ls | wc; head -5 /tmp/ls | tail -2; cp /tmp/ls /tmp/ls2; mv /tmp/ls2 /tmp/ls3; rm /tmp/ls3; done`,
  `bash -c 'f() { local n=$1; if ((n < 2)); then echo $n; else echo $(( $(f $((n - 1))) + $(f $((n - 2))) )); fi; }; f 7; a=(); for ((i = 0; i < 3000; i++)); do a[i]=$((i * 7 % 1000)); done; s=; for x in "\${a[@]}"; do case $x in 1*) s+=a;; *9) s+=b;; *) ((t += x));; esac; done; echo "\${#s} $t"; declare -A m; for w in $(ls /usr/bin | head -300); do m[\${w:0:2}]=$w; done; echo "\${#m[@]} \${s//ab/c}" | wc -c'`,
  `cd /usr/share && find . -type f | sort | awk -F/ '{ n[$2]++ } END { for (k in n) print n[k], k }' | sort -rn | head; find /etc -type f -name '*.conf' -exec cat {} + 2>/dev/null | sed -e 's/[aeiou]/_/g' -e '/^#/d' | tr a-z A-Z | cut -c1-40 | sort | uniq -c | sort -n | tail -3`,
  `tar cf /tmp/t.tar /usr/lib/python3/dist-packages /etc 2>/dev/null; gzip -k -f /tmp/t.tar; gunzip -c /tmp/t.tar.gz | sha256sum; md5sum /tmp/t.tar; xz -1 -k -f -T1 /tmp/t.tar; xz -dc /tmp/t.tar.xz | wc -c; rm /tmp/t.tar*`,
  `ps aux | cat; df -h; free; top -bn1 | head -5; ip address; ip route; date; uname -a; env | sort; stat /etc/passwd; du -s /etc; id; curl -s file:///etc/hostname`,
];
