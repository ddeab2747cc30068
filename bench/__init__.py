"""One file per question; each opens with what it measures and what it leaves out."""
