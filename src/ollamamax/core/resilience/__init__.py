"""Admission, breakers, retry budgets."""
