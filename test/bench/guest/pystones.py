"""What interpreted programs do: attributes, methods, lists, dictionaries, strings, closures, generators, big integers."""


class Record:
    __slots__ = ("next", "kind", "number", "text")

    def __init__(self, kind=0, number=0, text=""):
        self.next = None
        self.kind = kind
        self.number = number
        self.text = text

    def copy(self):
        other = Record(self.kind, self.number, self.text)
        other.next = self.next
        return other


class Shape:
    def area(self):
        return 0


class Square(Shape):
    def __init__(self, side):
        self.side = side

    def area(self):
        return self.side * self.side


class Disc(Shape):
    def __init__(self, radius):
        self.radius = radius

    def area(self):
        return 3.25 * self.radius * self.radius


def records(turns):
    head = Record(1, 2, "first of the records")
    total = 0
    for i in range(turns):
        record = head.copy()
        record.next = head
        record.number += i
        if record.kind == 1 and record.text > "first":
            total += record.next.number + len(record.text)
        elif record.kind > i:
            total -= 1
        head = record if i % 3 else record.next
    return total


def words(turns):
    counts = {}
    for i in range(turns):
        key = "w%d" % (i * 7919 % 613)
        counts[key] = counts.get(key, 0) + 1
    return ",".join(f"{key}:{count}" for key, count in sorted(counts.items())[:50])


def sieve(limit):
    flags = bytearray([1]) * limit
    for n in range(2, int(limit**0.5) + 1):
        if flags[n]:
            flags[n * n :: n] = bytes(len(range(n * n, limit, n)))
    return sum(flags) - 2


def queens(size):
    def place(row, columns, falling, rising):
        if row == size:
            return 1
        return sum(
            place(row + 1, columns | 1 << c, falling | 1 << (row + c), rising | 1 << (row - c + size))
            for c in range(size)
            if not (columns >> c & 1 or falling >> (row + c) & 1 or rising >> (row - c + size) & 1)
        )

    return place(0, 0, 0, 0)


def shapes(turns):
    all_shapes = [Square(i) if i % 2 else Disc(i) for i in range(50)]
    return sum(shape.area() for _ in range(turns) for shape in all_shapes)


def big(turns):
    a, b = 0, 1
    for _ in range(turns):
        a, b = b, a + b
    return len(str(a)), a % 1000003


if __name__ == "__main__":
    print(records(60000), words(40000), sieve(200000), queens(6), shapes(600), big(2000))
