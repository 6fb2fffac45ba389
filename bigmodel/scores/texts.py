"""Texts held against references, one each: by sacreBLEU and jiwer."""

from collections.abc import Sequence

from bigmodel.scores.libraries import wanted


def bleu(true: Sequence[str], told: Sequence[str]) -> float:
    """BLEU of the corpus, 0 to 100: sacreBLEU's with its defaults (13a, case, exp smoothing).

    Papineni et al. 2002 (doi:10.3115/1073083.1073135); Post 2018 (arXiv:1804.08771).
    """
    return float(wanted("sacrebleu", "sacreBLEU").corpus_bleu(list(told), [list(true)]).score)


def chrf(true: Sequence[str], told: Sequence[str]) -> float:
    """chrF2 of the corpus, 0 to 100: sacreBLEU's with its defaults (Popovic 2015, W15-3049)."""
    return float(wanted("sacrebleu", "sacreBLEU").corpus_chrf(list(told), [list(true)]).score)


def word_error_rate(true: Sequence[str], told: Sequence[str]) -> float:
    """Words put in, left out and changed for each word of the references; may be above 1.

    jiwer's, of all texts together. Without a word in any reference it is how many are put in.
    """
    return float(wanted("jiwer", "jiwer").wer(list(true), list(told)))


def character_error_rate(true: Sequence[str], told: Sequence[str]) -> float:
    """`word_error_rate` of characters, those between words too."""
    return float(wanted("jiwer", "jiwer").cer(list(true), list(told)))


def exact_match(true: Sequence[str], told: Sequence[str]) -> float:
    """The share of texts that are their reference, but for white space around them."""
    same = [one.strip() == other.strip() for one, other in zip(true, told, strict=True)]
    return sum(same) / len(same)
