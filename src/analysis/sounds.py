"""How English words sound, as codes that are equal for words that sound alike"""

import re
from functools import cache

from jellyfish import metaphone

# What Metaphone does not hear as English speakers do: silent letters, and letters for one sound.
RESPELLED = [
    (re.compile(letters), sound)
    for letters, sound in (
        # psychology, pterodactyl, pneumonia, mnemonic; rhythm, ghost, honest, hour, heir
        (r"^p(?=[stn])|^m(?=n)|^g(?=n)|(?<=^r)h|(?<=^g)h|^h(?=on(o|e)|our|eir)", ""),
        # character, chemistry, chaos, chorus, chrome, chameleon, choir
        (r"^ch(?=[lr]|ara|aris|aos|asm|o[lr](?!e)|em|am[eo]|im[ea]|ia|oi|ym|ut)", "k"),
        # school, technical, synchronous, echo, headache
        (r"(?<=s)ch(?=[eo])|(?<=[aeiouny])ch(?=[lrnm])|(?<=e)ch(?=o)|(?<=(?<![eo])a)ch(?=es?$)",
         "k"),
        # orchestra, anchor, stomach, psyche, mechanic, melancholy, epoch, bronchitis, trachea
        (r"(?<=or)ch(?=es|id)|(?<=n)ch(?=o[rl])|(?<=ma)ch(?=s?$)|(?<=epo)ch|(?<=ron)ch(?=i)", "k"),
        (r"(?<=y)ch(?=[oei])|(?<=e)ch(?=ani)|(?<=mi)ch(?=ae)|(?<=tra)ch(?=e)|^ch(?=oreo)", "k"),
        # architect and archive, but not archer; monarch, anarchy, patriarchal, hierarchical
        (r"(?<=^ar)ch(?=a|e(?![rsd])|i(?!ng))|(?<=nar|iar|gar|rar)ch(?=y|s?$|i[sc]|a)", "k"),
        # science, scissors, ascend; excellent, acquire; exhaust, vehicle, shepherd, spaghetti
        (r"^s(?=c[eiy])", ""),
        (r"(?<=s)c(?=[eiy])|(?<=x)c(?=[eiy])|(?<=a)c(?=q)", ""),
        (r"(?<=x)h|(?<=ve)h(?=ic)|(?<=p)h(?=erd)|(?<=g)h(?=[eiy])|(?<=fg)h|(?<=dd)h|(?<=^k)h", ""),
        (r"qu(?=[aeio])", "kw"),  # quick, queen
        # foreign, design, campaign; could; often, Christmas, mortgage; empty
        (r"(?<=i)g(?=n(s|ed|ing|ers?|ment)?$)|(?<=[cw]ou)l(?=d)|(?<=shou)l(?=d)", ""),
        (r"(?<=f)t(?=en)|(?<=s)t(?=mas)|(?<=r)t(?=gage)|(?<=m)p(?=t)", ""),
        # plumber, climbing; handkerchief, handsome; cupboard, raspberry
        (r"(?<=m)b(?=(ers?|ing|ed|s)?$)|(?<=han)d(?=[ks])|p(?=b)", ""),
        (r"(?<=[ai])[ct]i(?=ent)|(?<=n)ci(?=ent)|(?<=[ie])ss(?=ue|ure|ion)|^s(?=ugar|ure)", "sh"),
        # doubt, debt, subtle, receipt, island, aisle, muscle, castle, listen
        (r"(?<=dou)b(?=t)|(?<=de)b(?=t)|(?<=su)b(?=tl)|(?<=ei)p(?=t)|(?<=i)s(?=le|land)", ""),
        (r"(?<=s)c(?=le)|(?<=[aeiou]s)t(?=(le|en)(s|ed|ing|er)?$)", ""),
        # column, answer, sword, talk, half, salmon, Wednesday
        (r"(?<=m)n(?=s?$)|(?<=ans)w|(?<=^s)w(?=ord)|(?<=a)l(?=[kfm])|(?<=we)d(?=nes)", ""),
        (r"(?<=[ao]u)gh(?=s?$)|ph", "f"),  # laugh, enough, pharmacy
    )
]  # fmt: skip


@cache
def sounds(word: str) -> frozenset[str]:
    """Codes of how a word may sound; words that share one sound alike.

    They are those of Metaphone, which hears no letters but a to z, for the word with and without
    each of the respellings.
    """
    spellings = {word.casefold()}
    for letters, sound in RESPELLED:
        spellings |= {letters.sub(sound, spelling) for spelling in spellings}
    return frozenset(map(metaphone, spellings))
